"""Factorization, transforms, files, and other libraries' formats."""

import os
import subprocess
import sys
import textwrap

import kronsparse as ks
import numpy as np
import pytest
from chains import CHAINS, DTYPES, dense, dtype_of, numbers


@pytest.mark.parametrize("order", ["l2r", "r2l", "balanced"])
def test_a_matrix_with_the_structure_is_recovered(rng, order):
    for name in ("monarch", "three", "butterfly", "low rank"):
        matrix = dense([numbers(rng, p, np.dtype(np.float64)) for p in CHAINS[name]])
        found = ks.factorize(matrix, CHAINS[name], order=order)
        assert found.relative_error < 1e-12, name
        assert np.allclose(found.chain.to_dense(), matrix, atol=1e-12 * np.abs(matrix).max())
        assert len(found.steps) == len(CHAINS[name]) - 1
        assert found.bound >= 1 or len(CHAINS[name]) == 1


def test_the_error_is_the_error_and_two_factors_are_optimal(rng):
    matrix = rng.standard_normal((96, 64)).astype(np.float32)
    found = ks.factorize(matrix, "monarch:8,4")
    error = np.linalg.norm(matrix.astype(np.float64) - found.chain.astype(np.float64).to_dense()) / np.linalg.norm(
        matrix
    )
    assert found.relative_error == pytest.approx(error, rel=1e-5)
    assert found.chain.dtype == np.float32 and found.bound == 1
    assert found.steps[0].rank == 1 and (found.steps[0].start, found.steps[0].split, found.steps[0].end) == (0, 1, 2)
    # Every block of the split has lost all but its largest singular value.
    blocks = matrix.astype(np.float64).reshape(8, 12, 4, 16).transpose(1, 2, 0, 3)
    kept = sum(np.linalg.svd(blocks[j, i], compute_uv=False)[0] ** 2 for j in range(12) for i in range(4))
    best = np.sqrt(1 - kept / np.linalg.norm(matrix.astype(np.float64)) ** 2)
    assert found.relative_error == pytest.approx(best, rel=1e-5)


def test_factorization_refuses_what_it_cannot_do(rng):
    matrix = rng.standard_normal((12, 10))
    with pytest.raises(ValueError, match="not chainable"):
        ks.factorize(np.zeros((12, 30)), CHAINS["not chainable"])
    with pytest.raises(ValueError, match=r"expected shape \[96, 64\], found \[12, 10\]"):
        ks.factorize(matrix, CHAINS["monarch"])
    with pytest.raises(ValueError, match="l2r, r2l, balanced"):
        ks.factorize(matrix, "monarch:3,2", order="middle")
    with pytest.raises(ValueError, match="two dimensions"):
        ks.factorize(matrix[0], "monarch:3,2")
    matrix[3, 4] = np.nan
    with pytest.raises(ValueError, match=r"entry \(3, 4\)"):
        ks.factorize(matrix, "monarch:3,2")


@pytest.mark.parametrize("name", ["float32", "float64", "complex64", "complex128"])
def test_transforms_are_exact(rng, name):
    eps = np.finfo(name).eps
    popcount = np.array([[bin(i & k).count("1") for k in range(32)] for i in range(32)])
    assert np.array_equal(ks.hadamard(32, name).to_dense(), (-1.0) ** popcount)
    own = ks.hadamard(32, name, orthonormal=True)
    assert np.abs((own @ own).to_dense() - np.eye(32)).max() < 8 * eps
    k, t = np.mgrid[0:32, 0:32]
    cosine = ks.dct2(32, name)
    # Reduced to one turn in whole numbers: the cosine of a large angle is not exact.
    expected = np.cos(np.pi / 64 * (k * (2 * t + 1) % 128))
    assert np.abs(np.asarray(cosine) - expected).max() < 32 * eps
    x = rng.standard_normal((5, 32)).astype(name)
    assert np.abs(cosine.apply(x) - x @ expected.T).max() < 200 * eps
    assert np.abs(cosine @ x.T - expected @ x.T).max() < 200 * eps
    assert np.abs(cosine @ x[0] - expected @ x[0]).max() < 200 * eps
    if np.dtype(name).kind == "c":
        fourier = ks.dft(32, name)
        assert fourier.shape == (32, 32) and fourier.dtype == np.dtype(name)
        assert np.abs(fourier.apply(x) - np.fft.fft(x)).max() < 200 * eps
        unitary = np.asarray(ks.dft(32, name, orthonormal=True))
        assert np.abs(unitary @ unitary.conj().T - np.eye(32)).max() < 32 * eps
    else:
        with pytest.raises(TypeError, match=f"expected complex64 or complex128, found {name}"):
            ks.dft(32, name)
    with pytest.raises(ValueError, match="power of two"):
        ks.hadamard(12, name)
    with pytest.raises(ValueError, match=r"expected a shape \(…, 32\), found \(3,\)"):
        cosine.apply(x[0, :3])


@pytest.mark.parametrize("name", DTYPES)
def test_files_keep_every_bit(rng, tmp_path, name):
    dtype = dtype_of(name)
    chain = ks.Chain([numbers(rng, p, dtype) for p in CHAINS["monarch"]])
    bias = numbers(rng, (96,), dtype)
    ks.save(tmp_path / "layer.safetensors", chain, bias)
    found, found_bias = ks.load_layer(tmp_path / "layer.safetensors")
    assert found == chain and found.dtype == dtype and np.array_equal(found_bias, bias)
    with pytest.raises(ValueError, match="has a bias of 96 numbers"):
        ks.load(tmp_path / "layer.safetensors")
    ks.save(str(tmp_path / "chain.safetensors"), chain, batch_last=True)
    assert ks.load(tmp_path / "chain.safetensors") == chain


def test_bfloat16_without_ml_dtypes_is_a_clear_error(tmp_path):
    path = tmp_path / "chain.safetensors"
    ks.save(path, ks.Chain([np.ones((1, 2, 2, 2)).astype(dtype_of("bfloat16"))]))
    program = """
        import sys
        sys.modules["ml_dtypes"] = None      # what an import finds where the package is not installed
        import kronsparse as ks
        for call in (lambda: ks.load(sys.argv[1]), lambda: ks._kronsparse.fast_transform("hadamard", 4, "bfloat16")):
            try:
                call()
            except ImportError as error:
                print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert out.count("bfloat16 arrays need the package ml_dtypes, which is not installed; or use float32") == 2


def test_files_that_are_wrong_are_refused(rng, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ks.load(tmp_path / "nowhere.safetensors")
    path = tmp_path / "chain.safetensors"
    ks.save(path, ks.hadamard(16))
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        ks.load(path)
    path.write_bytes(b"no chain")
    with pytest.raises(ValueError, match="chain.safetensors"):
        ks.load(path)
    with pytest.raises(OSError):
        ks.save(tmp_path / "missing" / "chain.safetensors", ks.hadamard(16))
    with pytest.raises(ValueError, match="expected 16 elements, found 3"):
        ks.save(path, ks.hadamard(16), np.zeros(3, np.float32))
    assert os.listdir(tmp_path) == ["chain.safetensors"]


def test_scipy_s_solvers_take_a_chain(rng):
    linalg = pytest.importorskip("scipy.sparse.linalg")
    chain = ks.Chain([numbers(rng, p, np.dtype(np.float64)) for p in CHAINS["monarch"]])
    matrix = dense(list(chain.weights))
    operator = chain.aslinearoperator()
    x, y = rng.standard_normal(64), rng.standard_normal(96)
    assert operator.shape == (96, 64) and operator.dtype == np.float64
    assert np.allclose(operator @ x, matrix @ x) and np.allclose(operator.H @ y, matrix.T @ y)
    assert np.allclose(operator.matmat(np.eye(64)), matrix) and np.allclose(operator.rmatmat(np.eye(96)), matrix.T)
    assert np.allclose(operator @ (x + 2j * x), matrix @ (x + 2j * x))
    solved = linalg.lsqr(operator, matrix @ x, atol=1e-14, btol=1e-14, iter_lim=2000)[0]
    assert np.allclose(matrix @ solved, matrix @ x, atol=1e-6)
    assert np.allclose(linalg.svds(operator, k=2)[1].max(), np.linalg.norm(matrix, 2))


def test_lazylinop_s_arrays_are_ours(rng):
    weights = [numbers(rng, p, np.dtype(np.float64)) for p in CHAINS["monarch"]]
    chain = ks.from_ksm(weights)
    values = ks.to_ksm(chain)
    assert all(np.array_equal(x, y) for x, y in zip(values, weights))
    values[0][:] = 0
    assert chain == ks.Chain(weights)

    class Like:
        """What lazylinop's operators have."""

        ks_values = weights

    assert ks.from_ksm(Like()) == chain
    assert ks.from_ksm(weights[0]).patterns == chain.patterns[:1]
