//! The emulator's own tests: small kernels of each kind of instruction give the numbers that plain Rust gives, and each of many
//! one-line mistakes is reported, most with the message that it deserves.

use fastrand::Rng;
use half::{bf16, f16};

use super::compile::{self, Source};
use super::launch::{Buffer, Launch, Outcome, run};

/// A unit kernel, its launches with the expected bytes, and its mutants: text, replacement, words of the message. An empty
/// message stands for wrong numbers or any message, in any of the runs.
pub(crate) struct Unit {
    pub(crate) name: &'static str,
    pub(crate) text: String,
    pub(crate) launches: Vec<(Launch, Vec<u8>)>,
    pub(crate) mutants: &'static [(&'static str, &'static str, &'static str)],
}

/// Compiles a unit and all its mutants at once, and holds every launch against what it must give.
pub(crate) fn check(unit: Unit) {
    let Unit { name, text, launches, mutants } = unit;
    let mut sources = vec![Source { name: "right".into(), text: text.clone() }];
    for (at, (from, to, _)) in mutants.iter().enumerate() {
        assert_eq!(
            text.matches(from).count(),
            1,
            "{name}: a mutant no longer applies: `{from}` must stand in the kernel once"
        );
        sources.push(Source { name: format!("mutant {at}"), text: text.replace(from, to) });
    }
    let program = compile::program(&sources, &compile::files()).unwrap_or_else(|why| panic!("{name}: {why}"));
    let of = |kernel: &str| -> Vec<[Outcome; 2]> {
        let all: Vec<Launch> = launches.iter().map(|(l, _)| Launch { kernel: kernel.into(), ..l.clone() }).collect();
        run(&program, &all)
    };
    for (at, outcomes) in of("right").into_iter().enumerate() {
        for (mode, outcome) in ["early", "late"].into_iter().zip(outcomes) {
            match outcome {
                Ok(y) => assert!(
                    y == launches[at].1,
                    "{name}, launch {at}, {mode}: wrong numbers: {}",
                    first(&y, &launches[at].1)
                ),
                Err(why) => panic!("{name}, launch {at}, {mode}: {why}"),
            }
        }
    }
    for (at, (from, to, message)) in mutants.iter().enumerate() {
        let outcomes: Vec<Outcome> = of(&format!("mutant {at}")).into_iter().flatten().collect();
        let expected = launches.iter().flat_map(|(_, y)| [y, y]);
        let caught = outcomes.iter().zip(expected).filter(|(outcome, y)| match outcome {
            Ok(found) => message.is_empty() && found != *y,
            Err(why) => why.contains(message),
        });
        let (wanted, all) = (if message.is_empty() { 1 } else { 2 }, outcomes.len());
        let caught = caught.count();
        let said: Vec<String> =
            outcomes.iter().map(|o| o.as_ref().map_or_else(Clone::clone, |_| "no error".into())).collect();
        assert!(
            caught >= wanted,
            "{name}: `{from}` → `{to}`: {caught} of {all} runs say `{message}`; they say {said:#?}"
        );
    }
}

fn first(found: &[u8], expected: &[u8]) -> String {
    let at = found.chunks(4).zip(expected.chunks(4)).position(|(a, b)| a != b).unwrap_or_default();
    let word =
        |bytes: &[u8]| bytes.chunks(4).nth(at).map_or(0, |c| u32::from_le_bytes(c.try_into().unwrap_or_default()));
    let (f, e) = (word(found), word(expected));
    format!("word {at} is {f:#010x} ({}), expected {e:#010x} ({})", f32::from_bits(f), f32::from_bits(e))
}

pub(crate) fn random_bytes(count: usize, rng: &mut Rng) -> Vec<u8> {
    (0..count).map(|_| rng.u8(..)).collect()
}

pub(crate) fn words(values: impl IntoIterator<Item = u32>) -> Vec<u8> {
    values.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// Small whole numbers and halves: products and sums are exact in every type.
pub(crate) fn exact(count: usize, rng: &mut Rng) -> Vec<f32> {
    (0..count).map(|_| rng.i32(-8..=8) as f32 * 0.5).collect()
}

pub(crate) fn usual(grid: u64, threads: u64, shared_bytes: u64, n: u64) -> Launch {
    Launch { grid, threads, cluster: 1, shared_bytes, n, seconds: 20, ..Launch::default() }
}

#[test]
fn barriers_of_a_block() {
    let mut rng = Rng::new();
    let x: Vec<u32> = (0..384).map(|_| rng.u32(..1 << 30)).collect();
    let y = (0..384).map(|at| x[at ^ 5 ^ 32 ^ 64] + 3);
    let mut launch = usual(3, 128, 512, 0);
    launch.x = Buffer::new(words(x.iter().copied()));
    launch.y = Buffer::poisoned(384 * 4);
    check(Unit {
        name: "sync",
        text: include_str!("units/sync.cu").into(),
        launches: vec![(launch, words(y))],
        mutants: &[
            ("load_global4(x + t));\n  sync_warp();", "load_global4(x + t));", "no barrier lies between"),
            ("(t ^ 5));\n  sync_warp();", "(t ^ 5));", "no barrier lies between"),
            ("neighbour + 1);\n  sync_some(1 + half, 64);", "neighbour + 1);", "no barrier lies between"),
            (
                "neighbour + 1);\n  sync_some(1 + half, 64);",
                "neighbour + 1);\n  sync_warp();",
                "no barrier lies between",
            ),
            ("(t ^ 32));\n  sync_some(1 + half, 64);", "(t ^ 32));", "no barrier lies between"),
            ("(t ^ 32));\n  sync_some(1 + half, 64);", "(t ^ 32));\n  sync_some(1 + half, 128);", "deadlock"),
            (
                "(t ^ 32));\n  sync_some(1 + half, 64);",
                "(t ^ 32));\n  sync_some(1, 64 + half * 32);",
                "is waited for by",
            ),
            ("warp + 2);\n  sync_block();", "warp + 2);", "no barrier lies between"),
            ("(t ^ 64)", "(t + 1)", "out of bounds: the block has 512 bytes"),
            ("if (t < 128) store", "if (t < 127) store", ""),
            ("store_global4(y + t, mine)", "store_global4(y + t / 2, mine)", "written a second time"),
        ],
    });
}

#[test]
fn roundings_permutations_and_shuffles() {
    let mut rng = Rng::new();
    // Random bits, and every number half way between two of a narrow type around the edges of its range.
    let mut x: Vec<u32> = (0..4096).map(|_| rng.u32(..)).collect();
    let near = [0.0f32, 5.96e-8, 2.98e-8, 6.1e-5, 1.0, 2048.0, 65504.0, 65519.99, 65520.0, 1e38, 3.4e38];
    for value in near {
        for delta in [0u32, 1, 0x0800, 0x1000, 0x1001, 0x2000, 0x3000, 0x8000, 0x1_8000] {
            x.extend([value.to_bits().wrapping_add(delta), value.to_bits().wrapping_sub(delta) | 1 << 31]);
        }
    }
    x.extend([f32::INFINITY, f32::NEG_INFINITY, -0.0].map(f32::to_bits));
    // NaN stays NaN, but which one is not prescribed.
    x.retain(|w| !f32::from_bits(*w).is_nan() && !f16::from_bits(*w as u16).is_nan());
    x.truncate(x.len() / 32 * 32);
    let permuted = |a: u32, b: u32, selector: u32| {
        let bytes = [a.to_le_bytes(), b.to_le_bytes()].concat();
        u32::from_le_bytes([0, 4, 8, 12].map(|shift| {
            let digit = selector >> shift & 15;
            let byte = bytes[(digit & 7) as usize];
            if digit & 8 == 0 { byte } else { 0u8.wrapping_sub(byte >> 7) }
        }))
    };
    let tf32 = |x: f32| {
        // Nearest, ties away from zero, among numbers with 10 bits after the point.
        let w = x.to_bits();
        let (low, high) = (w & !0x1FFF, (w & !0x1FFF).wrapping_add(0x2000));
        if !x.is_finite() || w & 0x1FFF < 0x1000 { low } else { high }
    };
    let y = (0..x.len()).flat_map(|at| {
        let (w, other) = (x[at], x[at ^ 1]);
        let (v, o) = (f32::from_bits(w), f32::from_bits(other));
        let half = |v: f32| u32::from(f16::from_f32(v).to_bits());
        let brain = |v: f32| u32::from(bf16::from_f32(v).to_bits());
        let wide = f16::from_bits(w as u16).to_f32().to_bits();
        let again = u32::from(f16::from_f32(bf16::from_f32(v).to_f32()).to_bits());
        [
            half(v) | half(o) << 16,
            brain(v) | brain(o) << 16,
            tf32(v),
            permuted(w, other, 0x5410),
            permuted(w, other, 0x7632),
            permuted(w, other, 0x90B3),
            wide >> 16 | again << 16,
            x[at ^ 31],
        ]
    });
    let y = words(y);
    let mut launch = usual(1, 32, 0, x.len() as u64);
    launch.x = Buffer::new(words(x.iter().copied()));
    launch.y = Buffer::poisoned(y.len());
    check(Unit {
        name: "numbers",
        text: include_str!("units/numbers.cu").into(),
        launches: vec![(launch, y)],
        mutants: &[
            ("pack_f16(x, other)", "pack_f16(other, x)", ""),
            ("0x7632)", "0x7632 ^ 1)", ""),
            ("store_global4(y + 7, shuffle_xor(w, 31))", "store_global4(y + 7, at < 32 ? shuffle_xor(w, 31) : 0)", ""),
            (
                "store_global4(y + 7, shuffle_xor(w, 31))",
                "if (at % 2) store_global4(y + 7, shuffle_xor(w, 31))",
                "deadlock",
            ),
        ],
    });
}

#[test]
fn asynchronous_copies() {
    let mut rng = Rng::new();
    let x = random_bytes(16 * 300, &mut rng);
    let mut y = vec![0; 5 * 64 * 16];
    for unit in 0..300 {
        y[(unit ^ 32) * 16..][..16].copy_from_slice(&x[unit * 16..][..16]);
    }
    let mut launch = usual(1, 64, 3072, 300);
    launch.x = Buffer::new(x);
    launch.y = Buffer::poisoned(y.len());
    check(Unit {
        name: "copies",
        text: include_str!("units/copies.cu").into(),
        launches: vec![(launch, y)],
        mutants: &[
            ("copy_wait<1>()", "copy_wait<2>()", "not waited for"),
            ("sync_block();", "", "no barrier lies between"),
            ("copy_wait<1>();\n    sync_block();", "sync_block();\n    copy_wait<1>();", "not waited for"),
            ("load(chunk + 2);", "load(chunk + 1);", ""),
            (
                "unit < args.n ? unit : 0) * 16, unit < args.n)",
                "unit) * 16, unit <= args.n)",
                "out of bounds: it has 4800 bytes",
            ),
            ("(chunk % 3) * 1024 + t * 16", "(chunk % 3) * 1024 + t * 8", "is not a multiple of 16"),
            ("(chunk % 3) * 1024 + t * 16", "(chunk % 2) * 1024 + t * 16", "no barrier lies between"),
        ],
    });
}

/// Rows of an odd or even number of halves, at an address that is a multiple of 4 or not: pieces that begin within a word, that end
/// within one, that are not there; fewer lines and pieces than the threads take together, and more.
#[test]
fn pieces_that_begin_within_a_word() {
    let mut rng = Rng::new();
    let shapes: [[usize; 3]; 5] = [[16, 37, 3], [16, 3, 40], [8, 9, 5], [4, 20, 33], [2, 50, 7]];
    let mut launches = Vec::new();
    for n in [1, 2, 3, 7, 8, 9, 17, 24, 325] {
        for offset in [0, 2] {
            let x = random_bytes(50 * 2 * n, &mut rng);
            let mut y = Vec::new();
            for [bytes, lines, pieces] in shapes {
                for line in x.chunks(2 * n).take(lines) {
                    let start = y.len();
                    y.extend(line.iter().take(bytes * pieces));
                    y.resize(start + bytes * pieces, 0);
                }
            }
            let mut launch = usual(1, 32, 2656, n as u64);
            launch.x = Some(Buffer { bytes: x, offset });
            launch.y = Buffer::poisoned(y.len());
            launches.push((launch, y));
        }
    }
    check(Unit {
        name: "ragged",
        text: include_str!("units/ragged.cu").into(),
        launches,
        mutants: &[
            ("row - byte}", "row - byte + 2}", ""),
            ("(line + more) * row", "line * row", ""),
            ("});\n  sync_block();", "});", "no barrier lies between"),
        ],
    });
}

/// `d0 + A Bᵀ` with A of `m` rows, B of `n`, both of `k` columns; `d0(row, column)`.
pub(crate) fn product(a: &[f32], b: &[f32], [m, n, k]: [usize; 3], d0: impl Fn(usize, usize) -> f32) -> Vec<u8> {
    let at = |i: usize, j: usize| {
        let sum: f64 = (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[j * k + l])).sum();
        (f64::from(d0(i, j)) + sum) as f32
    };
    words((0..m * n).map(|cell| at(cell / n, cell % n).to_bits()))
}

pub(crate) fn stored(kind: usize, values: &[f32]) -> Vec<u8> {
    match kind {
        0 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        1 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        // The hardware does not look at the low 13 bits.
        _ => values.iter().flat_map(|&v| (v.to_bits() | 0x1234).to_le_bytes()).collect(),
    }
}

#[test]
fn fragments_of_mma() {
    let mut rng = Rng::new();
    let launches = (0..3).map(|kind| {
        let k = if kind == 2 { 8 } else { 16 };
        let (a, b) = (exact(16 * k, &mut rng), exact(8 * k, &mut rng));
        let mut launch = usual(1, 32, 0, kind as u64);
        launch.x = Buffer::new(stored(kind, &a));
        launch.w = Buffer::new(stored(kind, &b));
        launch.y = Buffer::poisoned(16 * 8 * 4);
        (launch, product(&a, &b, [16, 8, k], |i, j| (1 + i / 8 * 2 + j % 2) as f32))
    });
    check(Unit {
        name: "fragments",
        text: include_str!("units/fragments.cu").into(),
        launches: launches.collect(),
        mutants: &[
            ("a[r] = load_global4(x + (g + 8 * (r & 1)) * 8", "a[r] = load_global4(x + (g + 8 * (r >> 1)) * 8", ""),
            ("* 16 + 2 * q + 8 * (r >> 1)", "* 16 + 2 * q + 8 * (r & 1)", ""),
            ("w + g * 16 + 2 * q + 8 * r", "w + g * 16 + 2 * q + 4 * r", ""),
            ("mma_bf16(d, a, b[0], b[1])", "mma_bf16(d, a, b[1], b[0])", ""),
        ],
    });
}

#[test]
fn mistakes_with_memory_are_named() {
    let mut rng = Rng::new();
    let x = random_bytes(1024, &mut rng);
    let y: Vec<u8> = (0..64).flat_map(|unit| x[(63 - unit) * 16..][..16].to_vec()).collect();
    let messages = [
        "",
        "16 bytes at x+1024, out of bounds: it has 1024 bytes",
        "4 bytes at x-4, out of bounds",
        "x+2 lies at an address that is not a multiple of 4",
        "16 bytes at shared+1024, out of bounds: the block has 1024 bytes",
        "shared+152 is not a multiple of 16",
        "x+0, which is only for reading",
        "y+0, which this launch writes",
        "4 bytes at y+1024, out of bounds",
        "is written a second time",
        "bytes beside y were written",
        "a pointer was followed without a wrapper",
        "out of bounds",
        "copy_async: the address in global memory is not a multiple of 16",
        "threads 9 to 9 wait at shuffle_xor",
        "deadlock: block 0 threads 0 to 31 wait at sync_some(3): 32 of 64 threads came",
        "deadlock",
        "a loop without end",
        "4 bytes at shared+-4, out of bounds",
    ];
    let text = include_str!("units/faults.cu").to_owned();
    let source = Source { name: "faults".into(), text };
    let program = compile::program(&[source], &compile::files()).unwrap_or_else(|why| panic!("{why}"));
    let launches: Vec<Launch> = (0..messages.len())
        .map(|n| {
            let mut launch = usual(1, 64, 1024, n as u64);
            launch.seconds = 1;
            launch.kernel = "faults".into();
            launch.x = Buffer::new(x.clone());
            launch.y = Buffer::poisoned(1024);
            launch
        })
        .collect();
    for ((n, outcomes), message) in run(&program, &launches).into_iter().enumerate().zip(messages) {
        for outcome in outcomes {
            match outcome {
                Ok(found) => assert!(message.is_empty() && found == y, "fault {n}: `{message}` was not reported"),
                Err(why) => assert!(
                    !message.is_empty() && why.contains(message),
                    "fault {n}: expected `{message}`, found `{why}`"
                ),
            }
        }
    }
}

/// Every wrapper and macro of ptx.cuh has its counterpart: a kernel that compiles there compiles here.
#[test]
fn the_emulator_has_every_wrapper() {
    let files = compile::files();
    let names = |file: &str| -> std::collections::BTreeSet<String> { declared(&files[file]).into_iter().collect() };
    let missing: Vec<String> = names("ptx.cuh").difference(&names("emulator/emulator.h")).cloned().collect();
    assert!(missing.is_empty(), "emulator.h lacks {missing:?} of ptx.cuh");
}

/// Names of functions marked `KS_DEVICE`, of macros, and of structs.
fn declared(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once("#define ") {
            found.push(rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default().into());
        } else if let Some((_, rest)) = line.split_once("KS_DEVICE ") {
            let before = rest.split('(').next().unwrap_or_default();
            found.push(before.rsplit([' ', '*']).next().unwrap_or_default().into());
        } else if let Some((_, rest)) = line.split_once("struct ") {
            found.push(
                rest.trim_start_matches(|c: char| c != 'U' && c != 'T')
                    .split([' ', ';'])
                    .next()
                    .unwrap_or_default()
                    .into(),
            );
        }
    }
    found.retain(|name| !name.is_empty() && name != "KS_PRAGMA");
    found
}
