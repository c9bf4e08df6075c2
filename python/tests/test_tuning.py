"""Tuning: records, the file, who uses it, what is wrong with it, and interruptions."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import kronsparse as ks
import numpy as np
import pytest
from stores import prefer, records

PATTERNS = ks.monarch(64, 32, 8, 4)
QUICK = {"seconds": 0.001, "caches": "warm"}


@pytest.fixture(autouse=True)
def back(tmp_path, monkeypatch):
    """No file of the user's is touched, and what a test made this process use is forgotten."""
    monkeypatch.setenv("KRONSPARSE_TUNING", str(tmp_path / "user.txt"))
    yield
    ks.tune(PATTERNS, 3, dtype="float64", store=tmp_path / "neutral.txt", **QUICK)


def run(program, *arguments, **environment):
    """A Python program in a process of its own: what it prints, its errors, its exit code."""
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
    )
    return found.stdout, found.stderr, found.returncode


def test_records_say_what_was_measured(tmp_path):
    seen = []
    store = tmp_path / "folder" / "store.txt"
    found = ks.tune(
        PATTERNS, [1, 40], dtype=["float32", np.float64], store=store, progress=lambda *at: seen.append(at), **QUICK
    )
    assert [(record.dtype, record.batch) for record in found] == [
        (dtype, n) for dtype in ("float32", "float64") for n in (1, 40)
    ]
    assert len(found) == found.new == 4 and found.store == store and seen[0][:2] == (0, 4) and "n = 40" in seen[3][2]
    record = found[1]
    assert record.patterns == PATTERNS and not record.bias and not record.batch_last
    assert (record.activation, record.join, record.caches) == ("none", "none", "warm")
    assert record.untuned.name == "fused" and record.chosen in record.measured
    assert record.gain == record.untuned.seconds / record.chosen.seconds >= 1
    assert {"fused", "dense", "csr"} <= {way.name for way in record.measured}
    assert all(0 < way.seconds < 1 and way.samples > 0 and way.steps for way in record.measured)
    assert record.untuned.steps == ["factors 0 to 1: fused"] and "thread" in record.machine
    assert "n = 40" in repr(record) and "4 measured now, 0 known before" in str(found)
    for known, record in zip(ks.read_tuning(store), found, strict=True):
        # Times are read from decimal numbers.
        assert repr(known) == repr(record) and known.gain == pytest.approx(record.gain, rel=1e-12)
        assert [way.steps for way in known.measured] == [way.steps for way in record.measured]
    assert record == found[3] != found[2]


def test_nothing_is_measured_twice_unless_that_is_asked_for(tmp_path):
    chain, store = ks.Chain.random(PATTERNS, np.float64), tmp_path / "store.txt"
    first = ks.tune(chain, [2, 2, 9], store=store, **QUICK)
    assert len(first) == first.new == 2 and first[0].dtype == "float64"
    again = ks.tune(chain, [9, 2], store=store, **QUICK)
    assert again.new == 0 and set(map(repr, again)) == set(map(repr, first))
    for other in ({"bias": True}, {"activation": "relu"}, {"join": "gate"}, {"batch_last": True}, {"dtype": "f32"}):
        assert ks.tune(chain, 2, store=store, **other, **QUICK).new == 1
    assert ks.tune(chain, 2, store=store, again=True, **QUICK).new == 1
    assert len(records(store)) == 8


def test_numbers_of_numpy_are_numbers(tmp_path):
    options = {"dtype": "f32", "store": tmp_path / "store.txt", **QUICK}
    assert [record.batch for record in ks.tune(PATTERNS, np.int64(3), **options)] == [3]
    assert [record.batch for record in ks.tune(PATTERNS, np.array([3, 5]), **options)] == [3, 5]


def test_the_user_s_file_is_where_results_go(tmp_path):
    assert ks.tuning_path() == tmp_path / "user.txt"
    assert ks.tune(PATTERNS, 1, dtype="f64", **QUICK).store == tmp_path / "user.txt" and ks.tuning_path().exists()


def test_later_calls_take_what_was_found(tmp_path, rng):
    store = tmp_path / "store.txt"
    chain = ks.Chain.random(PATTERNS, np.float64, rng=rng)
    ks.tune(chain, 40, store=store, **QUICK)
    prefer(store, "csr")
    x = rng.standard_normal((40, 32))
    before, packed = chain.apply(x), chain._packed()
    ks.use_tuning(store)
    # The same process packs chains anew; what it multiplies is the same.
    assert chain._packed() is not packed and chain._packed().explain(40).startswith("csr on up to")
    assert "measured 1000.00 µs with n = 40, untuned 10000.00 µs" in chain._packed().explain(40)
    assert np.allclose(chain.apply(x), before, rtol=1e-12, atol=1e-12)
    assert (
        chain._packed().explain(400).startswith("fused") and chain._packed().explain(40, batch_last=True)[:5] == "fused"
    )
    # And so do others.
    program = """
        import sys, numpy as np, kronsparse as ks
        chain = ks.Chain.random([tuple(map(int, p.split(","))) for p in sys.argv[1:]], np.float64)
        print(chain.operator().explain(40), np.allclose(chain.apply(np.ones((40, 32))), chain.to_dense().sum(1)))
    """
    patterns = [",".join(map(str, p)) for p in PATTERNS]
    assert run(program, *patterns, KRONSPARSE_TUNING=store)[0].startswith("csr on up to")
    assert run(program, *patterns, KRONSPARSE_TUNING=store)[0].endswith("True\n")
    assert run(program, *patterns, KRONSPARSE_TUNING="off")[0].startswith("fused on up to")


def test_a_damaged_file_is_refused_with_the_library_s_sentence(tmp_path):
    store = tmp_path / "store.txt"
    ks.tune(PATTERNS, [1, 2], dtype="f32", store=store, **QUICK)
    good = store.read_text()
    store.write_text(good.replace('"n":1,', '"n":7,'))
    damaged = "store.txt: line 2 of the tuning store is damaged: its checksum is"
    for call in (ks.read_tuning, ks.use_tuning, lambda path: ks.tune(PATTERNS, 1, dtype="f32", store=path, **QUICK)):
        with pytest.raises(ValueError, match=damaged):
            call(store)
    out, error, code = run(
        "import kronsparse as ks\nks.Chain.random([(1, 2, 2, 1)]).apply(__import__('numpy').ones((1, 2), 'f4'))",
        KRONSPARSE_TUNING=store,
    )
    assert code and "ValueError" in error and "KRONSPARSE_TUNING names it" in error and "is damaged" in error
    store.write_text("something else\n")
    with pytest.raises(ValueError, match="expected the first line `kronsparse tuning 1`, found `something else`"):
        ks.use_tuning(store)
    # A line that somebody was stopped in is left out.
    store.write_text(good[:-10])
    assert len(ks.read_tuning(store)) == 1
    with pytest.warns(UserWarning, match="kronsparse: .*store.txt: the last line is left out"):
        assert ks.tune(PATTERNS, [1, 2], dtype="f32", store=store, **QUICK).new == 1
    with pytest.raises(FileNotFoundError, match="nowhere.txt"):
        ks.use_tuning(tmp_path / "nowhere.txt")
    with pytest.raises(OSError, match="store.txt"):
        ks.tune(PATTERNS, 1, dtype="f32", store=store / "below.txt", **QUICK)


def test_wrong_arguments_name_what_was_expected_and_found(tmp_path, monkeypatch):
    store = tmp_path / "store.txt"
    for wrong, why in [
        ({"dtype": "int8"}, "found int8"),
        ({"batch": 0}, "a batch of 0"),
        ({"activation": "tanh"}, "tanh"),
        ({"join": "both"}, "both"),
        ({"device": "h100"}, "device: expected cpu, cuda or cuda:N, found h100"),
        ({"caches": "hot"}, "caches: expected cold or warm, found hot"),
        ({"seconds": -1.0}, "seconds: expected 0 to 3600, found -1"),
        ({"batch": -3}, "batch: expected a whole number from 0 on, found -3"),
        ({"batch": [4, 2.5]}, "batch: expected a whole number, found 2.5 of type float"),
        ({"batch": True}, "batch: expected a whole number, found True of type bool"),
        ({"batch": "8"}, "batch: expected a whole number, found '8' of type str"),
        ({"batch": 2**64}, "batch: expected a whole number from 0 on, found 18446744073709551616"),
        ({"batch": []}, "batch: expected at least one number of vectors, found none"),
        ({"dtype": []}, "dtype: expected at least one element type, found none"),
        ({"dtype": 5}, "dtype: expected a NumPy element type or its name, found 5 of type int"),
        ({"dtype": ["f32", None]}, "dtype: expected a NumPy element type or its name, found None"),
        ({"threads": -1}, "threads: expected a whole number from 0 on, found -1"),
        ({"threads": 1.5}, "threads: expected a whole number, found 1.5"),
        ({"device": 0}, "device: expected a text, found 0 of type int"),
        ({"store": 5}, "store: expected a path, found 5 of type int"),
        ({"progress": 5}, "progress: expected a function or None, found 5 of type int"),
    ]:
        options = {"batch": 1, "dtype": "f32", "store": store, **QUICK, **wrong}
        with pytest.raises((ValueError, TypeError), match=why):
            ks.tune(PATTERNS, **options)
    with pytest.raises(ValueError, match="dtype: expected the element type of a chain that is given by its patterns"):
        ks.tune(PATTERNS, 1, store=store)
    with pytest.raises(TypeError, match="chain: expected a Chain or patterns, .* found 'monarch:8,4'"):
        ks.tune("monarch:8,4", 1, dtype="f32", store=store)
    assert not records(store)
    monkeypatch.setenv("KRONSPARSE_TUNING", "off")
    assert ks.tuning_path() is None
    with pytest.raises(ValueError, match="store: there is no place for results: KRONSPARSE_TUNING is off"):
        ks.tune(PATTERNS, 1, dtype="f32")


def test_a_gpu_that_is_not_there_is_a_runtime_error(tmp_path):
    with pytest.raises(RuntimeError):
        ks.tune(PATTERNS, 1, dtype="f32", device="cuda:99", store=tmp_path / "store.txt")


def test_other_threads_run_meanwhile(tmp_path):
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(1)
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    ks.tune(PATTERNS, 500, dtype="f64", store=tmp_path / "store.txt", seconds=0.05)
    stop.set()
    thread.join()
    assert len(ticks) > 5


TUNE = """
    import sys, kronsparse as ks
    def progress(done, total, what):
        print(done, total, flush=True)
    try:
        found = ks.tune(ks.monarch(64, 32, 8, 4), list(range(1, 41)), dtype="f32", store=sys.argv[1],
                        seconds=float(sys.argv[2]), progress=progress)
        print("new", found.new)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        import os
        os._exit(7)
"""


def interrupted(store, seconds, number, after=3):
    """A tuning process that is sent a signal once so many problems have begun."""
    command = [sys.executable, "-c", textwrap.dedent(TUNE), str(store), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for _ in range(after):
        process.stdout.readline()
    process.send_signal(number)
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
def test_ctrl_c_loses_nothing(tmp_path):
    store = tmp_path / "store.txt"
    process = interrupted(store, 0.02, signal.SIGINT)
    begun = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == 7 and begun[-1] == "interrupted"
    # All that had begun, the one at hand included.
    known = len(ks.read_tuning(store))
    assert known == 3 + len(begun) - 1 < 40
    out, _, code = run(TUNE, store, 0.001)
    assert code == 0 and out.splitlines()[-1] == f"new {40 - known}"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
def test_ctrl_c_during_the_first_problem_loses_nothing(tmp_path):
    program = """
        import sys, time, kronsparse as ks
        try:
            ks.tune(ks.monarch(64, 32, 8, 4), [7, 8], dtype="f32", store=sys.argv[1], seconds=0.3, caches="warm",
                    progress=lambda *_: print("begun", flush=True))
        except KeyboardInterrupt:
            chain = ks.Chain.random(ks.monarch(64, 32, 8, 4), "float32")
            print("measured" in chain.operator().explain(7), len(ks.read_tuning(sys.argv[1])), flush=True)
    """
    store = tmp_path / "store.txt"
    command = [sys.executable, "-c", textwrap.dedent(program), str(store)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.1)
    assert process.poll() is None and not records(store)
    process.send_signal(signal.SIGINT)
    # The process that was interrupted takes what it has measured.
    assert process.communicate(timeout=60)[0] == "True 1\n" and process.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
def test_ctrl_c_twice_ends_at_once(tmp_path):
    process = interrupted(tmp_path / "store.txt", 30, signal.SIGINT, after=1)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10)[0] == "interrupted\n" and process.returncode == 7


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
def test_a_killed_process_leaves_a_file_that_is_gone_on_with(tmp_path, rng):
    store = tmp_path / "store.txt"
    process = interrupted(store, 0.001, signal.SIGKILL, after=int(rng.integers(2, 20)))
    process.communicate(timeout=60)
    known = len(ks.read_tuning(store))
    assert 1 <= known < 40
    assert run(TUNE, store, 0.001)[0].splitlines()[-1] == f"new {40 - known}"
