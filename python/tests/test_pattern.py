"""Patterns and chains of patterns."""

import copy
import pickle

import kronsparse as ks
import pytest
from kronsparse import Pattern


def test_numbers_of_a_pattern():
    p = Pattern(2, 3, 5, 4)
    assert (p.a, p.b, p.c, p.d) == (2, 3, 5, 4) == tuple(p)
    assert (p.rows, p.cols, p.nnz, p.density) == (24, 40, 120, 1 / 8)
    assert Pattern(2, 5, 3, 4) == p.T
    assert str(p) == "(2,3,5,4)" and eval(repr(p)) == p
    assert Pattern.parse(" (2, 3,5,4)") == p == Pattern.parse("2,3,5,4")
    assert len(p) == 4 and p[-1] == 4 and p[0] == 2
    with pytest.raises(IndexError, match="found index 4"):
        p[4]


def test_a_pattern_is_a_value():
    p = Pattern(2, 3, 5, 4)
    assert {p: 1}[Pattern(2, 3, 5, 4)] == 1
    assert p != Pattern(2, 3, 5, 1) and p < Pattern(3, 1, 1, 1)
    assert pickle.loads(pickle.dumps(p)) == p == copy.deepcopy(p)
    with pytest.raises(AttributeError):
        p.a = 3


@pytest.mark.parametrize("numbers", [(0, 1, 1, 1), (1, 1, 0, 1), (2**40, 2**40, 1, 1)])
def test_impossible_patterns_are_refused(numbers):
    with pytest.raises(ValueError, match=str(numbers[0])):
        Pattern(*numbers)


def test_negative_numbers_and_texts_are_refused():
    with pytest.raises(OverflowError):
        Pattern(-1, 1, 1, 1)
    with pytest.raises(ValueError, match="four numbers"):
        Pattern.parse("(1,2,3)")


def test_sizes_of_a_chain_must_match():
    assert ks.check_chain([(1, 8, 4, 12), "(4,12,16,1)"]) == [Pattern(1, 8, 4, 12), Pattern(4, 12, 16, 1)]
    with pytest.raises(ValueError, match="48 columns.*40 rows"):
        ks.check_chain([(1, 8, 4, 12), (4, 10, 16, 1)])
    with pytest.raises(ValueError, match="at least one factor"):
        ks.check_chain([])
    with pytest.raises(TypeError):
        ks.check_chain([(1, 2, 3)])


def test_named_chains():
    assert ks.monarch(96, 64, 8, 4) == [Pattern(1, 8, 4, 12), Pattern(4, 12, 16, 1)]
    assert ks.square_dyadic(8) == ks.butterfly([2, 2, 2])
    assert ks.parse_chain("monarch:8,4", 96, 64) == ks.monarch(96, 64, 8, 4)
    assert ks.ranks(ks.monarch(96, 64, 8, 4)) == [1]
    with pytest.raises(ValueError, match="p = 7 does not divide rows = 96"):
        ks.monarch(96, 64, 7, 4)
    with pytest.raises(ValueError, match="power of two"):
        ks.square_dyadic(12)
    with pytest.raises(ValueError, match="not chainable"):
        ks.ranks([(1, 4, 4, 3), (6, 2, 5, 1)])


def test_enumerated_chains_keep_the_budget():
    chains = ks.enumerate_chains(12, 8, max_factors=3, max_parameters=60, max_rank=2)
    assert len(chains) > 5
    for chain in chains:
        assert (chain[0].rows, chain[-1].cols) == (12, 8)
        assert sum(p.nnz for p in chain) <= 60
        assert all(rank <= 2 for rank in ks.ranks(chain))
    for chain in ks.budget_chains(96, 64, 0.25):
        assert (chain[0].rows, chain[-1].cols) == (96, 64) and sum(p.nnz for p in chain) <= 0.25 * 96 * 64
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        ks.budget_chains(96, 64, 1.5)
