//! Stores on the disk: what is written is read, what is cut off is left out, everything else is refused.

use proptest::prelude::*;

use super::*;
use crate::plan::gpu::Precision;
use crate::tune::{Measured, Step};
use crate::{Activation, ChainPattern, DType, Join, Layout, Pattern};

fn pick<T: Copy>(all: &[T]) -> T {
    all[fastrand::usize(..all.len())]
}

fn machine(device: &str) -> Machine {
    Machine {
        device: device.into(),
        instructions: "9.0, 132 multiprocessors".into(),
        driver: "580.1".into(),
        compiler: "NVRTC 13.0".into(),
        kernels: "abc".into(),
        threads: 0,
    }
}

fn way(steps: &[(usize, usize)]) -> Measured {
    let step = |&(at, count): &(usize, usize)| Step {
        at,
        count,
        name: pick(&["dense", "lanes_mma", "chain_mma"]).into(),
        arguments: pick(&["", "ks::Shape<1, 64>, 3, \"x\"\n\u{1b}é"]).into(),
    };
    // Nanoseconds survive as decimal text.
    let seconds = f64::from(fastrand::u32(1..1_000_000)) / 1e9;
    Measured { steps: steps.iter().map(step).collect(), seconds, samples: fastrand::usize(1..100) }
}

fn random_record() -> Record {
    let (p, q) = (fastrand::usize(1..9), fastrand::usize(1..9));
    let patterns = [Pattern::new(1, 6, q, p).unwrap(), Pattern::new(p, q, 3, 1).unwrap()];
    let problem = ChainProblem {
        chain: ChainPattern::new(patterns.to_vec()).unwrap(),
        dtype: pick(&DType::ALL),
        precision: pick(&[Precision::Full, Precision::Tf32]),
        layout: pick(&Layout::ALL),
        batch: fastrand::usize(1..100_000),
        aligned: fastrand::bool(),
        bias: fastrand::bool(),
        activation: pick(&[Activation::None, Activation::Relu, Activation::GeluTanh, Activation::Silu]),
        join: pick(&[Join::None, Join::Residual, Join::Gate]),
    };
    let parts = vec![way(&[(1, 1)]), way(&[(0, 1)]), way(&[(1, 1), (0, 1)]), way(&[(0, 2), (0, 0)])];
    Record::new(machine(pick(&["one", "two"])), problem, "cold", way(&[(0, 2)]), way(&[(1, 1), (0, 1)]), parts)
}

/// A store of so many random records.
fn filled(folder: &Path, count: usize) -> Store {
    let mut store = Store::open(&folder.join("tuning.txt")).unwrap();
    (0..count).for_each(|_| store.append(random_record()).unwrap());
    store
}

#[test]
fn what_is_appended_is_read_and_the_latest_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made/for/it/tuning.txt");
    let mut store = Store::open(&path).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "kronsparse tuning 1\n");
    for _ in 0..30 {
        store.append(random_record()).unwrap();
    }
    let read = Store::read(&path).unwrap();
    assert_eq!((read.records(), read.note(), read.path()), (store.records(), None, path.as_path()));
    assert_eq!(Store::open(&path).unwrap().records(), store.records());

    let first = read.records()[7].clone();
    assert_eq!(read.find(&first.machine, &first.problem), Some(&first));
    let later = Record { best: way(&[(0, 2)]), ..first.clone() };
    store.append(later.clone()).unwrap();
    let other = ChainProblem { batch: first.problem.batch + 1, ..first.problem.clone() };
    store.append(Record { problem: other.clone(), ..first.clone() }).unwrap();
    let read = Store::read(&path).unwrap();
    assert_eq!(read.find(&first.machine, &first.problem), Some(&later));
    let numbers = read.of_problem(&first.machine, &other);
    assert_eq!(numbers[&first.problem.batch], &later);
    assert_eq!(numbers.len(), 2);
    // Anything else is another problem, or another machine.
    for problem in [
        ChainProblem { aligned: !first.problem.aligned, ..first.problem.clone() },
        ChainProblem { bias: !first.problem.bias, ..first.problem.clone() },
        ChainProblem { activation: Activation::Gelu, ..first.problem.clone() },
    ] {
        assert_eq!(read.find(&first.machine, &problem), None);
        assert!(read.of_problem(&first.machine, &problem).is_empty());
    }
    for machine in [
        machine("three"),
        Machine { driver: "580.2".into(), ..first.machine.clone() },
        Machine { compiler: "NVRTC 13.1".into(), ..first.machine.clone() },
        Machine { kernels: "abd".into(), ..first.machine.clone() },
        Machine { threads: 1, ..first.machine.clone() },
    ] {
        assert_eq!(read.find(&machine, &first.problem), None);
        assert!(read.of_problem(&machine, &first.problem).is_empty());
    }
}

#[test]
fn ties_go_to_the_untuned_way_and_gains_are_against_what_was_measured() {
    let [mut usual, mut other] = [way(&[(0, 2)]), way(&[(1, 1), (0, 1)])];
    usual.seconds = 1e-4;
    let record = |other: &Measured| {
        let Record { machine, problem, .. } = random_record();
        Record::new(machine, problem, "warm", usual.clone(), other.clone(), vec![usual.clone(), other.clone()])
    };
    other.seconds = 0.985e-4;
    let tie = record(&other);
    assert_eq!((&tie.best, tie.gain()), (&usual, 1.0));
    assert!((tie.gain_over(&other.steps).unwrap() - 0.985).abs() < 1e-12);
    other.seconds = 0.5e-4;
    let faster = record(&other);
    assert_eq!((&faster.best, faster.gain()), (&other, 2.0));
    assert_eq!(faster.gain_over(&other.steps), Some(1.0));
    assert_eq!(faster.gain_over(&usual.steps), Some(2.0));
    assert_eq!(faster.gain_over(&way(&[(0, 3)]).steps), None);
}

#[test]
fn a_file_that_was_cut_anywhere_has_all_whole_records_and_can_be_appended_to() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path(), 3);
    let whole = std::fs::read(store.path()).unwrap();
    let ends: Vec<usize> = (0..whole.len()).filter(|&at| whole[at] == b'\n').map(|at| at + 1).collect();
    assert_eq!(ends.len(), 4);
    let path = folder.path().join("cut.txt");
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let lines = ends.iter().filter(|&&end| end <= length).count();
        let expected = &store.records()[..lines.saturating_sub(1)];
        let read = Store::read(&path).unwrap();
        assert_eq!(read.records(), expected, "cut at {length}");
        let torn = length > 0 && !ends.contains(&length);
        assert_eq!(read.note().is_some_and(|note| note.contains("left out")), torn, "cut at {length}");
        // Reading changes nothing.
        assert_eq!(std::fs::read(&path).unwrap(), &whole[..length]);
        if length % 7 == 0 || ends.contains(&length) {
            let mut opened = Store::open(&path).unwrap();
            assert_eq!((opened.records(), opened.note().is_some()), (expected, torn));
            opened.append(store.records()[2].clone()).unwrap();
            let again = Store::read(&path).unwrap();
            assert_eq!((again.records(), again.note()), (opened.records(), None), "cut at {length}");
            assert_eq!(again.records().len(), expected.len() + 1);
        }
    }
}

#[test]
fn whoever_appends_removes_what_another_process_left_unfinished() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = filled(folder.path(), 2);
    let mut file = OpenOptions::new().append(true).open(store.path()).unwrap();
    file.write_all(b"1234abcd {\"machine\":{\"dev").unwrap();
    store.append(random_record()).unwrap();
    assert_eq!(Store::read(store.path()).unwrap().records(), store.records());
}

#[test]
fn every_flipped_bit_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path(), 2);
    let whole = std::fs::read(store.path()).unwrap();
    let path = folder.path().join("flipped.txt");
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << fastrand::u8(..8);
        std::fs::write(&path, &bytes).unwrap();
        match Store::read(&path) {
            Err(error) => {
                let text = error.to_string();
                assert!(
                    text.contains("flipped.txt: ") && text.contains("expected") || text.contains("damaged"),
                    "{text}"
                );
                assert!(text.contains("delete") || text.contains("newer"), "{text}");
                assert_eq!(std::fs::read(&path).unwrap(), bytes);
                Store::open(&path).unwrap_err();
                assert_eq!(std::fs::read(&path).unwrap(), bytes, "what is refused is not touched");
            }
            // The end of the last line is gone: it is a line without its end.
            Ok(read) => {
                assert_eq!((at, read.records()), (whole.len() - 1, &store.records()[..1]));
                assert!(read.note().is_some());
            }
        }
    }
}

#[test]
fn foreign_files_are_refused_with_what_was_expected_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let refused = |content: &[u8]| {
        std::fs::write(&path, content).unwrap();
        let [read, opened] = [Store::read(&path), Store::open(&path)].map(|store| store.unwrap_err().to_string());
        assert_eq!(read, opened);
        assert_eq!(std::fs::read(&path).unwrap(), content, "what is refused is not touched");
        assert!(!read.contains('\n') && !read.contains('\u{1b}'), "{read:?}");
        read
    };
    let text = refused(b"import numpy\n");
    assert!(text.contains("expected the first line `kronsparse tuning 1`, found `import numpy`"), "{text}");
    assert!(text.contains("name another file, or delete this one"), "{text}");
    let text = refused(b"kronsparse tuning 2\nwhatever");
    assert!(text.contains("newer version: expected version 1, found 2; use a newer kronsparse"), "{text}");
    assert!(refused(b"kronsparse tuning 0\n").contains("no tuning store"));
    assert!(refused(b"kronsparse tuning 1 \n").contains("no tuning store"));
    assert!(refused(b"\x7fELF\x02\x01\x01\0\x1b[2J\xff\xfe").contains("no tuning store"));
    let random: Vec<u8> = (0..5000).map(|_| fastrand::u8(128..)).collect();
    assert!(refused(&random).contains("no tuning store"));
    // The right first line, and something else after it; a right checksum of something else.
    assert!(refused(b"kronsparse tuning 1\nhello\n").contains("line 2 of the tuning store is damaged: expected eight"));
    assert!(refused(b"kronsparse tuning 1\n\xff\xff\n").contains("no text"));
    let foreign = format!("kronsparse tuning 1\n{:08x} {{\"a\":1}}\n", crc32fast::hash(b"{\"a\":1}"));
    assert!(refused(foreign.as_bytes()).contains("line 2"));
    // A record whose way leaves a factor out.
    let mut record = random_record();
    record.best = way(&[(1, 1)]);
    let partial = format!("kronsparse tuning 1\n{}", line(&record));
    assert!(refused(partial.as_bytes()).contains("do not multiply by"));
    // No files at all.
    for store in [Store::read(folder.path()), Store::open(folder.path())] {
        let text = store.unwrap_err().to_string();
        assert!(text.contains("expected a regular file"), "{text}");
    }
    let text = Store::read(&folder.path().join("none")).unwrap_err().to_string();
    assert!(text.contains("none: cannot open"), "{text}");
    let text = Store::open(&path.join("below/a/file")).unwrap_err().to_string();
    assert!(text.contains("cannot make the folder: "), "{text}");
}

#[test]
fn several_who_append_at_once_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tuning.txt");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                // Each has a file of its own, as a process has.
                let mut store = Store::open(&path).unwrap();
                for _ in 0..25 {
                    store.append(random_record()).unwrap();
                    let seen = Store::read(&path).unwrap();
                    assert!(store.records().iter().all(|record| seen.records().contains(record)));
                }
            });
        }
    });
    assert_eq!(Store::read(&path).unwrap().records().len(), 100);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn nothing_makes_the_reader_panic(content in prop::collection::vec(any::<u8>(), 0..200), headed in any::<bool>()) {
        let content = if headed { [first_line().as_bytes(), &content].concat() } else { content };
        if let Ok(parsed) = parse(Path::new("x"), &content) {
            prop_assert!(parsed.records.is_empty());
        }
    }
}
