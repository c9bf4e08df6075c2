//! The emulator's tests of what came with sm_90: barriers in memory, the copy engine, clusters and what
//! their blocks send each other, warpgroup products.

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

#[test]
fn products_of_shared_memory() {
    let mut rng = Rng::new();
    let (n, k) = (24, 128);
    for (kind, number) in ["F16", "BF16"].into_iter().enumerate() {
        let b = exact(n * k, &mut rng);
        // Steps of 16, eights of columns, halves of a step: 8 × 8 numbers lie together.
        let packed: Vec<f32> = (0..n * k)
            .map(|at| {
                let (step, at) = (at / (n * 16), at % (n * 16));
                b[(at / 128 * 8 + at / 8 % 8) * k + step * 16 + at / 64 % 2 * 8 + at % 8]
            })
            .collect();
        let launches = [1usize, 2].map(|tiles| {
            let a = exact(tiles * 64 * k, &mut rng);
            let mut launch = usual(1, 128, 2 * 64 * 128 + 2 * (n * k) as u64 + 8, tiles as u64);
            launch.x = Buffer::new(stored(kind, &a));
            launch.w = Buffer::new(stored(kind, &packed));
            launch.y = Buffer::poisoned(tiles * 64 * n * 4);
            let (rows, bytes) = (tiles as u64 * 64, 2 * k as u64);
            launch.maps = vec![Map {
                buffer: 0,
                element: 2,
                swizzle: 128,
                dims: [k as u64, rows, 1, 1],
                strides: [bytes, bytes * rows, bytes * rows],
                boxed: [64, 64, 1, 1],
            }];
            (launch, product(&a, &b, [tiles * 64, n, k], |_, _| 0.0))
        });
        check(Unit {
            name: "lines",
            text: include_str!("units/lines.cu").replace("NUMBER", number),
            launches: launches.to_vec(),
            mutants: if kind > 0 {
                &[("step % 4 * 32", "(step % 4 ^ 1) * 32", "")]
            } else {
                &[
                    ("    barrier_wait(full, k & 1);\n", "", "wgmma: shared+"),
                    (
                        "barrier_wait(full, k & 1);\n",
                        "barrier_wait(full, k & 1);\n if (t == 0) store_shared4(shared, 0);\n sync_block();\n",
                        "has not called fence_async since",
                    ),
                    ("    wgmma_fence();\n", "", "wgmma_fence has not been called"),
                    ("    wgmma_commit();\n", "", "not committed"),
                    ("    wgmma_wait<0>();\n", "", "wgmma_wait is missing"),
                    ("    wgmma_wait<0>();\n", "", "being read asynchronously"),
                    ("    sync_block();\n  }\n}", "  }\n}", "and no barrier lies between"),
                    ("step != 0", "true", ""),
                    ("step != 0", "false", ""),
                    ("step != 0", "step != 0 || warp == 1", "thread 32 of the warpgroup names A "),
                    ("step % 4 * 32", "(step % 4 ^ 1) * 32", ""),
                    ("step % 4 * 32", "step % 4 * 16", "A starts at 0x410 of the window"),
                    ("step % 4 * 32", "step % 4 * 32 + 128", "A starts at 0x480 of the window"),
                    ("step / 4 * BOX", "step * BOX", "wgmma: A reads 16 bytes at shared+"),
                    ("wgmma_descriptor_lines(a)", "wgmma_descriptor(a, 16, 1024)", "wgmma: A's descriptor"),
                    ("wgmma_descriptor(b + step * (N * 32), 128, 256)", "wgmma_descriptor_lines(b)", "B's descriptor"),
                    (
                        "wgmma_descriptor_lines(a)",
                        "wgmma_descriptor_lines(shared + warp / 3 * 32)",
                        "of the warpgroup names A",
                    ),
                    ("tensor_prefetch_box(&x,", "tensor_prefetch_box(&x + 1,", "tensor_prefetch_box: "),
                ]
            },
        });
    }
}

#[test]
fn numbers_sent_within_a_cluster() {
    let mut rng = Rng::new();
    let launches = [1usize, 2, 3].map(|rounds| {
        let x = random_bytes(4 * rounds * 1024, &mut rng);
        // Unit u of a block comes from block u / 32 of its cluster.
        let y = (0..4 * rounds * 64).flat_map(|at| {
            let (block, round, unit) = (at / (rounds * 64), at / 64 % rounds, (at % 64) ^ 33);
            let from = block / 2 * 2 + unit / 32;
            x[((from * rounds + round) * 64 + block % 2 * 32 + unit % 32) * 16..][..16].to_vec()
        });
        let mut launch = usual(4, 64, 1024 + 16, rounds as u64);
        launch.cluster = 2;
        launch.y = Buffer::poisoned(x.len());
        let y = y.collect();
        launch.x = Buffer::new(x);
        (launch, y)
    });
    check(Unit {
        name: "exchange",
        text: include_str!("units/exchange.cu").into(),
        launches: launches.to_vec(),
        mutants: &[
            ("    barrier_wait(empty, (k & 1) ^ 1);\n", "", "store_async16_at: "),
            ("(k & 1) ^ 1", "k & 1", "deadlock"),
            ("barrier_init(empty, 4)", "barrier_init(empty, 2)", "store_async16_at: "),
            ("COMING = 1024", "COMING = 1008", "0 bytes are announced and not there"),
            ("COMING = 1024", "COMING = 1040", "lacks 0 of 1 arrivals and 16 bytes"),
            ("    barrier_expect(full, COMING);\n", "", "0 bytes are announced and not there"),
            ("  if (t == 0 && k + 1 < args.n) barrier_expect(full, COMING);\n", "", "expects no more"),
            // Announced too late; the second and the third one are in time by luck, in some runs.
            (
                "    barrier_expect(full, COMING);\n  }\n  sync_cluster();",
                "  }\n  sync_cluster();\n  if (t == 0) barrier_expect(full, COMING);",
                "expects no more",
            ),
            (
                "    barrier_expect(full, COMING);\n  }\n  sync_cluster();",
                "  }\n  sync_cluster();\n  if (t == 0) barrier_expect(full, COMING);\n  sync_block();",
                "the bytes were announced by thread 0",
            ),
            (
                "if (t == 0 && k + 1 < args.n) barrier_expect(full, COMING);\n    sync_warp();\n    if (lane < 2) barrier_arrive_at(empty, lane);",
                "sync_warp();\n    if (lane < 2) barrier_arrive_at(empty, lane);\n    if (t == 0 && k + 1 < args.n) barrier_expect(full, COMING);",
                "store_async16_at: the ",
            ),
            ("    barrier_init_fence();\n", "", "without barrier_init_fence"),
            (
                "barrier_expect(full, COMING);\n  }\n  sync_cluster();",
                "barrier_expect(full, COMING);\n  }\n  sync_block();",
                "mbarrier",
            ),
            ("  }\n  sync_cluster();\n}", "  }\n}", "has ended"),
            ("full, warp);", "full, warp ^ 1);", ""),
            ("full, warp);", "full, warp + 1);", "block 2 of a cluster of 2"),
            ("full, warp);", "full, 0);", "store_async16_at: "),
            ("    barrier_wait(full, k & 1);\n", "", "shared+"),
            ("    sync_warp();\n", "", "no barrier lies between"),
            ("(rank * 32 + lane) * 16", "(rank * 32 + lane) * 8", "not a multiple of 16"),
            ("(rank * 32 + lane) * 16", "(rank * 32 + lane + 1) * 16", "belongs to an mbarrier"),
            (
                "    store_global16(y",
                "    bulk_load(shared + (t ^ 33) * 16, args.x, 16, full);\n    store_global16(y",
                "was written by store_async16_at",
            ),
            ("uniform(t / 32)", "uniform(t / 31)", "uniform: lane 31 has 0x1, lane 0 0"),
            ("uniform(t / 32)", "(lane == 7 ? t / 32 : uniform(t / 32))", "deadlock"),
        ],
    });
}
