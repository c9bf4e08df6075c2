//! The emulator's tests of what came with sm_90: barriers in memory, the copy engine, clusters, warpgroup products.

use fastrand::Rng;

use super::launch::{Buffer, Map};
use super::units::{Unit, check, exact, product, random_bytes, stored, usual, words};

#[test]
fn barriers_in_memory_and_bulk_copies() {
    let mut rng = Rng::new();
    let launches = [0usize, 1, 2, 5].map(|n| {
        let x = random_bytes(2048 * n, &mut rng);
        let y = (0..128 * n).flat_map(|unit| x[(unit ^ 33) * 16..][..16].to_vec()).collect();
        let mut launch = usual(1, 96, 4096 + 32, n as u64);
        launch.y = Buffer::poisoned(x.len());
        launch.x = Buffer::new(x);
        (launch, y)
    });
    check(Unit {
        name: "ring",
        text: include_str!("units/ring.cu").into(),
        launches: launches.to_vec(),
        mutants: &[
            ("    barrier_init_fence();\n", "", "without barrier_init_fence"),
            ("sync_block();", "", "mbarrier"),
            ("barrier_init(empty + s, 2)", "barrier_init(empty + s, 3)", "lacks 1 of 3 arrivals"),
            ("barrier_init(empty + s, 2)", "barrier_init(empty + s, 1)", ""),
            ("barrier_wait(empty + k % 2, (k / 2 & 1) ^ 1);", "", ""),
            ("(k / 2 & 1) ^ 1", "k / 2 & 1", "deadlock"),
            ("barrier_expect(full + k % 2, 2048)", "barrier_expect(full + k % 2, 1024)", "bytes"),
            ("barrier_expect(full + k % 2, 2048)", "barrier_expect(full + k % 2, 4096)", "2048 bytes"),
            ("barrier_wait(full + k % 2, k / 2 & 1);", "", ""),
            ("barrier_wait(full + k % 2, k / 2 & 1);", "barrier_wait(full + k % 2, 1 ^ (k / 2 & 1));", ""),
            ("      sync_warp();\n", "", "no barrier lies between"),
            ("k * 2048, 2048, full", "k * 2048 + 8, 2048, full", "not a multiple of 16"),
            ("k * 2048, 2048, full", "k * 2048 + 16, 2048, full", "out of bounds"),
        ],
    });
}

#[test]
fn boxes_with_swizzle() {
    let mut rng = Rng::new();
    for bytes in [32usize, 64, 128] {
        let row = bytes / 4;
        // X[w][z][y][x] of f32 with odd strides; the box has `row` × 4 × 2 × 2 elements.
        let dims = [row + 2, 5, 3, 3];
        let strides = [4 * (row + 4), 4 * (row + 4) * 6, 4 * (row + 4) * 6 * 4];
        let total = strides[2] / 4 * dims[3];
        let x = exact(total, &mut rng);
        let mut y = vec![f32::from_bits(u32::MAX); total];
        let at = |index: [i64; 4]| {
            let inside = index.iter().zip(dims).all(|(&i, dim)| i >= 0 && i < dim as i64);
            inside.then(|| index[0] as usize + (1..4).map(|k| index[k] as usize * strides[k - 1] / 4).sum::<usize>())
        };
        for cell in 0..row * 16 {
            let inner = [cell % row, cell / row % 4, cell / row / 4 % 2, cell / row / 8].map(|v| v as i64);
            let from = at([inner[0] + 4, inner[1] - 1, inner[2] + 1, inner[3] + 2]).map_or(0.0, |at| x[at]);
            if let Some(to) = at([inner[0] + 4, inner[1], inner[2] + 1, inner[3] + 1]) {
                y[to] = from * 2.0 + (cell % row / 4) as f32;
            }
        }
        let map = |buffer| Map {
            buffer,
            element: 4,
            swizzle: bytes as u64,
            dims: dims.map(|v| v as u64),
            strides: strides.map(|v| v as u64),
            boxed: [row as u64, 4, 2, 2],
        };
        let mut launch = usual(1, 64, 2048 + 128, 0);
        launch.x = Buffer::new(words(x.iter().map(|v| v.to_bits())));
        launch.y = Buffer::poisoned(total * 4);
        launch.maps = vec![map(0), map(3)];
        let expected = words(y.iter().map(|v| v.to_bits()));
        check(Unit {
            name: "boxes",
            text: include_str!("units/boxes.cu").replace("BYTES", &bytes.to_string()),
            launches: vec![(launch, expected)],
            mutants: if bytes < 128 {
                &[("&x, full, 4, -1, 1, 2", "&x, full, 4, -1, 2, 1", "")]
            } else {
                &[
                    ("  barrier_wait(full, 0);\n", "", "load_shared: shared+"),
                    ("  fence_async();\n", "", "has not called fence_async since"),
                    ("fence_async();\n  sync_block();", "fence_async();", "no barrier lies between"),
                    ("    bulk_wait_read<0>();\n", "", "bulk_wait_read is missing"),
                    ("    bulk_commit();\n", "", "was not committed"),
                    ("address >> 3 & (128 - 16)", "address >> 3 & (64 - 16)", ""),
                    ("address >> 3 & (128 - 16)", "address >> 4 & (128 - 16)", ""),
                    ("&y, shared, 4, 0, 1, 1", "&y, shared, 4, 0, 1, 0", ""),
                    ("&y, shared, 4", "&x, shared, 4", "only for reading"),
                    ("tensor_load(shared, &x", "tensor_load(shared + 64, &x", "not a multiple of 128"),
                    (
                        "bulk_wait_read<0>();\n",
                        "store_shared4(shared, 0); bulk_wait_read<0>();\n",
                        "being read asynchronously",
                    ),
                ]
            },
        });
    }
}

#[test]
fn clusters() {
    let mut rng = Rng::new();
    let n = 3;
    let x = random_bytes(2 * n * 1024, &mut rng);
    let y = [&x[..n * 1024], &x[..n * 1024], &x[n * 1024..], &x[n * 1024..]].concat();
    let mut launch = usual(4, 64, 1024 + 16, n as u64);
    launch.cluster = 2;
    launch.x = Buffer::new(x);
    launch.y = Buffer::poisoned(y.len());
    check(Unit {
        name: "cluster",
        text: include_str!("units/cluster.cu").into(),
        launches: vec![(launch, y)],
        mutants: &[
            ("  sync_cluster();\n  for", "  sync_block();\n  for", "mbarrier"),
            ("  }\n  sync_cluster();\n}", "  }\n}", "has ended"),
            ("512, full, 3)", "512, full, 1)", "bytes"),
            ("512, full, 3)", "512, full, 7)", "multicast mask 0x7"),
            ("barrier_init(empty, 2)", "barrier_init(empty, 1)", ""),
            (
                "if (t < 2) barrier_arrive_at(empty, t)",
                "if (t < 2) barrier_arrive(empty)",
                "bulk_load_multicast: shared+0",
            ),
            (
                "if (t < 2) barrier_arrive_at(empty, t)",
                "if (t < 2) barrier_arrive_at(empty, t + 1)",
                "block 2 of a cluster of 2",
            ),
            ("      barrier_wait(empty, (k & 1) ^ 1);\n", "", ""),
        ],
    });
}

#[test]
fn products_of_warpgroups() {
    let mut rng = Rng::new();
    for (kind, number) in ["F16", "BF16", "TF32"].into_iter().enumerate() {
        let k = if kind == 2 { 16 } else { 32 };
        let (a, b) = (exact(64 * k, &mut rng), exact(24 * k, &mut rng));
        let expected = product(&a, &b, [64, 24, k], |i, j| (j / 8 * 4 + i % 16 / 8 * 2 + j % 2) as f32);
        let mut launch = usual(1, 384, 2 * 24 * 32, 0);
        launch.x = Buffer::new(stored(kind, &a));
        launch.w = Buffer::new(stored(kind, &b));
        launch.y = Buffer::poisoned(64 * 24 * 4);
        check(Unit {
            name: "groups",
            text: include_str!("units/groups.cu").replace("NUMBER", number),
            launches: vec![(launch, expected)],
            mutants: if kind > 0 {
                &[("(N * 32), 128, 256)", "(N * 32), 256, 128)", "")]
            } else {
                &[
                    ("  fence_async();\n", "", "has not called fence_async since"),
                    ("  fence_async();\n  sync_block();", "  fence_async();", "no barrier lies between"),
                    ("  wgmma_fence();\n", "", "wgmma_fence has not been called"),
                    ("    wgmma_commit();\n", "", "not committed"),
                    ("  wgmma_wait<0>();\n", "", "wgmma_wait is missing"),
                    ("  wgmma_wait<0>();\n", "  wgmma_wait<1>();\n", "wgmma_wait is missing"),
                    ("(N * 32), 128, 256)", "(N * 32), 256, 128)", ""),
                    ("word / 4 * 128", "word / 4 * 256", "store_shared: "),
                    ("registers_increase<232>", "registers_increase<236>", "a multiple of 8"),
                    ("registers_decrease<40>", "registers_decrease<160>", "deadlock"),
                    ("if (warp >= 4) {", "if (warp >= 3) {", "warpgroup takes different ways"),
                    (
                        "sync_block();\n  if (warp >= 4) {",
                        "sync_block();\n  if (warp == 1) wgmma_fence();\n  if (warp >= 4) {",
                        "takes different ways",
                    ),
                ]
            },
        });
    }
}
