"""Chains against NumPy: every dtype, both layouts, views, errors, and the protocols that arrays have."""

import copy
import pickle

import kronsparse as ks
import numpy as np
import pytest
from chains import CHAINS, DTYPES, assert_close, dense, dtype_of, numbers, wide
from kronsparse import _chain


def random_chain(rng, patterns, dtype=np.float64):
    return ks.Chain([numbers(rng, tuple(p), np.dtype(dtype)) for p in patterns])


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("patterns", CHAINS.values(), ids=CHAINS.keys())
def test_products_are_those_of_numpy(rng, patterns, name):
    dtype = dtype_of(name)
    chain = random_chain(rng, patterns, dtype)
    matrix = dense(list(chain.weights))
    rows, cols = chain.shape
    assert matrix.shape == (rows, cols) and chain.dtype == dtype
    for n in (0, 1, 3, 50):
        x = numbers(rng, (n, cols), dtype)
        assert_close(chain.apply(x), wide(x) @ matrix.T, chain)
        assert_close(chain @ np.ascontiguousarray(x.T), matrix @ wide(x).T, chain)
        y = numbers(rng, (n, rows), dtype)
        assert_close(y @ chain, wide(y) @ matrix, chain)
        assert_close(chain.T.apply(y), wide(y) @ matrix, chain)
        assert_close(chain.H.apply(y), wide(y) @ matrix.conj(), chain)
    vector = numbers(rng, (cols,), dtype)
    assert_close(chain @ vector, matrix @ wide(vector), chain)
    assert_close(np.asarray(chain), matrix, chain)


def test_what_was_measured_while_a_chain_is_packed_is_not_missed(rng, monkeypatch):
    chain, packed = random_chain(rng, CHAINS["monarch"]), []
    real = chain.operator

    def operator():
        made = real()
        if not packed:
            # Another thread has measured something, after this one has looked.
            _chain.pack_anew()
        packed.append(made)
        return made

    monkeypatch.setattr(chain, "operator", operator)
    x = numbers(rng, (3, 64), chain.dtype)
    for _ in range(3):
        assert_close(chain.apply(x), wide(x) @ dense(list(chain.weights)).T, chain)
    assert len(packed) == 2 and chain._packed() is packed[1]


def test_leading_dimensions_and_strides(rng):
    chain = random_chain(rng, CHAINS["monarch"])
    matrix = dense(list(chain.weights))
    x = numbers(rng, (6, 5, 2 * 64), chain.dtype)
    for view in (x[..., ::2], x[::2, 1:, :64], np.asfortranarray(x[..., :64]), x[:, :, :64][::-1]):
        assert_close(chain.apply(view), view @ matrix.T, chain)
        columns = view.swapaxes(-1, -2)
        assert_close(chain @ columns, matrix @ columns, chain)
    # Columns that lie one after the other, and none.
    columns = numbers(rng, (7, 64), chain.dtype).T
    assert_close(chain @ columns, matrix @ columns, chain)
    assert (chain @ columns).flags.f_contiguous
    assert (chain @ np.zeros((64, 0))).shape == (96, 0)


def test_results_go_where_the_caller_says(rng):
    chain = random_chain(rng, CHAINS["monarch"], np.float32)
    x = numbers(rng, (9, 64), chain.dtype)
    out = np.full((9, 96), np.nan, np.float32)
    assert chain.apply(x, out) is out
    assert np.array_equal(out, chain.apply(x))
    with pytest.raises(ValueError, match=r"out: expected shape \[9, 96\], found \[96, 9\]"):
        chain.apply(x, np.zeros((96, 9), np.float32))
    with pytest.raises(TypeError, match="out: expected float32 like the weights, found float64"):
        chain.apply(x, np.zeros((9, 96)))
    with pytest.raises(ValueError, match="C order"):
        chain.apply(x, np.zeros((96, 9), np.float32).T)
    readonly = np.zeros((9, 96), np.float32)
    readonly.flags.writeable = False
    with pytest.raises(ValueError, match="out"):
        chain.apply(x, readonly)
    square = random_chain(rng, CHAINS["butterfly"], np.float32)
    same = numbers(rng, (4, 32), square.dtype)
    with pytest.raises(ValueError, match="memory apart from x"):
        square.apply(same, same)


def test_a_batch_is_neither_copied_in_nor_out(rng):
    tracemalloc = pytest.importorskip("tracemalloc")
    chain = random_chain(rng, CHAINS["butterfly"], np.float32)
    x = numbers(rng, (100_000, 32), chain.dtype)
    out = np.empty_like(x)
    chain.apply(x[:10])
    # NumPy reports what it allocates.
    tracemalloc.start()
    chain.apply(x, out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes / 100


def test_wrong_arguments_name_what_was_expected_and_found(rng):
    chain = random_chain(rng, CHAINS["monarch"], np.float32)
    for x in (np.zeros((3, 63), np.float32), np.float32(1)):
        with pytest.raises(ValueError, match=r"64\), the columns of the chain, found"):
            chain.apply(x)
    with pytest.raises(ValueError, match=r"\(64, n\), the columns of the chain first, found \[63, 3\]"):
        chain @ np.zeros((63, 3), np.float32)
    with pytest.raises(TypeError, match="x: expected float32 like the weights, found float64"):
        chain.apply(np.zeros((3, 64)))
    with pytest.raises(TypeError, match="x: expected float16, .* found int64"):
        chain.apply(np.zeros((3, 64), np.int64))
    with pytest.raises(TypeError, match="native byte order"):
        chain.apply(np.zeros((3, 64), ">f4"))
    with pytest.raises(TypeError):
        chain @ [1.0] * 64
    with pytest.raises(
        ValueError, match=r"weights\[1\]: expected four dimensions \(a, b, c, d\), found shape \(4, 2\)"
    ):
        ks.Chain([np.zeros((1, 2, 2, 2)), np.zeros((4, 2))])
    with pytest.raises(TypeError, match=r"weights\[1\]: expected float64 like weights\[0\], found float32"):
        ks.Chain([np.zeros((1, 2, 2, 2)), np.zeros((2, 2, 2, 1), np.float32)])
    with pytest.raises(TypeError, match="found int64"):
        ks.Chain([np.zeros((1, 2, 2, 2), np.int64)])
    with pytest.raises(ValueError, match="4 columns.*6 rows"):
        ks.Chain([np.zeros((1, 2, 2, 2)), np.zeros((3, 2, 2, 1))])
    with pytest.raises(ValueError, match="at least one factor"):
        ks.Chain([])
    with pytest.raises(ValueError, match=r"\(2,0,2,1\)"):
        ks.Chain([np.zeros((2, 0, 2, 1))])


def test_algebra(rng):
    chain = random_chain(rng, CHAINS["monarch"], np.complex128)
    matrix = dense(list(chain.weights))
    right = random_chain(rng, [(1, 64, 5, 1)], np.complex128)
    assert_close((chain @ right).to_dense(), matrix @ dense(list(right.weights)), chain)
    assert len(chain @ right) == 3
    assert np.allclose((2j * chain).to_dense(), 2j * matrix)
    assert np.allclose((-chain).to_dense(), -matrix)
    assert np.allclose(chain.conj().to_dense(), matrix.conj())
    assert chain.T.T is chain
    fused = chain.fuse(0, 2)
    assert fused.patterns == (ks.Pattern(1, 96, 64, 1),)
    assert np.allclose(fused.weights[0][0, :, :, 0], matrix)
    with pytest.raises(ValueError, match="96 rows"):
        chain @ chain
    with pytest.raises(TypeError, match="expected complex128 on both sides, found complex64"):
        chain @ right.astype(np.complex64)
    real = random_chain(rng, CHAINS["monarch"])
    assert real.conj() is real
    with pytest.raises(TypeError, match="real number"):
        real * 1j


def test_bias_and_activation_are_part_of_an_operator(rng):
    chain = random_chain(rng, CHAINS["monarch"])
    bias = rng.standard_normal(96)
    x = rng.standard_normal((5, 64))
    operator = chain.operator(bias, activation="relu", threads=1)
    expected = np.maximum(x @ dense(list(chain.weights)).T + bias, 0)
    assert np.allclose(operator.apply(x), expected, rtol=1e-12, atol=1e-12)
    assert np.allclose(operator.apply(np.ascontiguousarray(x.T), batch_last=True), expected.T, rtol=1e-12, atol=1e-12)
    assert (operator.rows, operator.cols, operator.dtype) == (96, 64, "float64")
    assert operator.patterns == list(chain.patterns)
    with pytest.raises(ValueError, match="expected 96 elements, found 95"):
        chain.operator(bias[1:])
    with pytest.raises(TypeError, match="bias: expected float64, found float32"):
        chain.operator(bias.astype(np.float32))
    with pytest.raises(ValueError, match="none, relu, gelu"):
        chain.operator(activation="tanh")


def test_weights_are_the_chain_s_own(rng):
    weights = numbers(rng, (2, 3, 5, 4), np.dtype(np.float64))
    chain = ks.Chain([weights])
    before = chain.apply(np.eye(40))
    weights[:] = 0
    assert np.array_equal(chain.apply(np.eye(40)), before)
    with pytest.raises(ValueError, match="read-only"):
        chain.weights[0][0, 0, 0, 0] = 1
    shared = ks.Chain([weights], copy=False)
    assert np.shares_memory(shared.weights[0], weights)


def test_a_chain_is_a_value(rng):
    chain = random_chain(rng, CHAINS["monarch"], np.float32)
    chain.apply(np.zeros((1, 64), np.float32))
    for other in (pickle.loads(pickle.dumps(chain)), copy.deepcopy(chain), copy.copy(chain)):
        assert other == chain and np.array_equal(other.to_dense(), chain.to_dense())
    assert chain != chain.astype(np.float64) and chain != -chain and chain != "chain"
    assert repr(chain) == "Chain('(1,8,4,12)(4,12,16,1)', 96×64, float32, 1152 parameters)"
    assert chain.density == 1152 / (96 * 64) and chain.ndim == 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(chain)
    assert np.asarray(chain, dtype=np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="no dense array to share"):
        np.asarray(chain, copy=False)


def test_order_of_application(rng):
    weights = [numbers(rng, tuple(p), np.dtype(np.float64)) for p in CHAINS["three"]]
    assert ks.Chain.from_application_order(weights[::-1]) == ks.Chain(weights)


def test_random_chains_keep_the_variance(rng):
    chain = ks.Chain.random(ks.monarch(512, 512, 16, 32), np.float32, rng=rng)
    x = rng.standard_normal((200, 512)).astype(np.float32)
    assert 0.8 < chain.apply(x).var() < 1.25
    assert ks.Chain.random([(1, 2, 2, 1)], rng=3) == ks.Chain.random([(1, 2, 2, 1)], rng=3)


def test_nan_and_infinity_go_where_the_mathematics_says(rng):
    chain = random_chain(rng, CHAINS["lanes"])
    x = rng.standard_normal((3, 40))
    x[1, 7] = np.nan  # super-block 0, lane 3
    y = chain.apply(x)
    bad = np.isnan(y)
    expected = np.zeros_like(bad)
    expected[1, [3, 7, 11]] = True
    assert np.array_equal(bad, expected)
