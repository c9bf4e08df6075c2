//! Calibration files: what is written is read back, and nothing else is.

use std::fs;

use super::*;

/// Of this machine, with made-up rates.
pub(in crate::advise) fn made_up() -> Calibration {
    Calibration::new(
        CpuDescription::detect(),
        [200_000_000_000, 100_000_000_000],
        [30_000_000_000, 20_000_000_000],
        150_000_000_000,
    )
    .unwrap()
}

fn message(path: &Path) -> String {
    Calibration::read(path).unwrap_err().to_string()
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/er/calibration.json");
    assert_eq!(Calibration::read(&path).unwrap(), None);
    made_up().write(&path).unwrap();
    assert_eq!(Calibration::read(&path).unwrap(), Some(made_up()));
    let other = Calibration { flops_f32: 7_000_000, ..made_up() };
    other.write(&path).unwrap();
    assert_eq!(Calibration::read(&path).unwrap(), Some(other));
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "a temporary file is left");
}

#[test]
fn a_damaged_file_is_refused_in_a_sentence_and_never_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calibration.json");
    made_up().write(&path).unwrap();
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        for bit in [0x01, 0x10, 0x80] {
            let mut bad = good.clone();
            bad[at] ^= bit;
            fs::write(&path, &bad).unwrap();
            // White space between the values may be another one; nothing else may change.
            match Calibration::read(&path) {
                Ok(found) => assert_eq!(found, Some(made_up()), "byte {at}, bit {bit}"),
                Err(error) => assert!(error.to_string().contains("calibration"), "{error}"),
            }
        }
        fs::write(&path, &good[..at]).unwrap();
        assert!(Calibration::read(&path).is_err(), "cut at {at}");
    }
    for bytes in [&b"null"[..], b"[]", b"{}", b"\xff\xfe\x00", b"{\"calibration\": 3, \"checksum\": \"\"}"] {
        fs::write(&path, bytes).unwrap();
        assert!(message(&path).contains("no calibration"), "{}", message(&path));
    }
    fs::write(&path, "[".repeat(60_000)).unwrap();
    assert!(message(&path).contains("no calibration"));
    fs::write(&path, vec![b' '; 70_000]).unwrap();
    assert!(message(&path).contains("at most 65536 bytes"));
    assert!(message(folder.path()).contains("expected a regular file"));
}

#[test]
fn a_foreign_file_is_refused_even_if_its_checksum_fits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calibration.json");
    let refused = |change: &dyn Fn(&mut Calibration), word: &str| {
        let mut foreign = made_up();
        change(&mut foreign);
        foreign.write(&path).unwrap();
        assert!(message(&path).contains(word), "{}", message(&path));
    };
    refused(&|c| c.machine.cpu = "another\ncpu".into(), "another machine");
    assert!(!message(&path).contains('\n'));
    refused(&|c| c.machine.threads += 1, "number of threads");
    refused(&|c| c.version = 2, "version 1");
    refused(&|c| c.format = "something else".into(), "another format");
    refused(&|c| c.flops_f64 = 0, "f64 operations per second, found 0");
    refused(&|c| c.cache_bytes = u64::MAX, "bytes of cache per second");
    assert!(
        Calibration::new(
            CpuDescription { threads: 0, ..CpuDescription::detect() },
            [1 << 30; 2],
            [1 << 30; 2],
            1 << 30
        )
        .is_err()
    );
}

#[test]
fn files_of_different_machines_have_different_names() {
    let here = CpuDescription::detect();
    let other = CpuDescription { threads: here.threads + 1, ..here.clone() };
    let name = sealed::file_name(&here);
    assert_ne!(name, sealed::file_name(&other));
    assert!(name.starts_with("calibration-") && name.ends_with(".json"));
}

#[cfg(unix)]
#[test]
fn a_folder_that_is_made_is_one_that_kernels_can_be_kept_in() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("cache/kernels");
    made_up().write(&made.join("calibration.json")).unwrap();
    assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o700);
    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();
    assert!(made_up().write(&file.join("calibration.json")).unwrap_err().to_string().contains("cannot write"));
}

#[test]
fn a_place_that_cannot_be_written_to_is_refused_before_anything_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();
    for place in [file.join("calibration.json"), folder.path().to_path_buf()] {
        let watch = Stopwatch::start();
        let refused = Calibration::of_file(&place, true).unwrap_err().to_string();
        assert!(refused.contains("cannot write"), "{refused}");
        // Measuring takes a second and more.
        assert!(watch.seconds() < 0.5, "{} s", watch.seconds());
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
}

#[test]
fn this_machine_can_be_measured() {
    let measured = Calibration::measure(0.0).unwrap();
    assert_eq!(measured.machine, CpuDescription::detect());
    assert_eq!(measured.implausible(), None);
}
