"""Tests of what decides the meaning of the figures: parsing, statistics, elimination, summary, every peer's result.

python3 -m unittest test_peers          (in this folder, with requirements.txt installed)
"""

from __future__ import annotations

import contextlib
import io
import math
import random
import tempfile
import unittest
from functools import partial
from pathlib import Path

import cells
import contenders
import ksd
import summary
from cells import Cell, Pattern
from inputs import Inputs, dense_factor
from summary import Row
from timing import Candidate, Outcome, Policy, measure


def pattern(text: str) -> Pattern:
    return cells.parse_pattern(text)


class Parsing(unittest.TestCase):
    def test_patterns_in_every_accepted_form(self) -> None:
        expected = [Pattern(1, 2, 3, 4), Pattern(5, 6, 7, 8)]
        for text in ("1,2,3,4\n5,6,7,8\n", "1,2,3,4;5,6,7,8", "(1,2,3,4) (5, 6,7 ,8)", "# a, b\n1,2,3,4 # c\n5,6,7,8"):
            self.assertEqual(cells.parse_patterns(text), expected, text)

    def test_what_is_no_pattern_is_refused(self) -> None:
        for text in ("", "1,2,3", "1,2,3,4,5", "0,1,1,1", "(1,2,3,4", "1,2,3,4)", "-1,2,3,4", "1,2,x,4"):
            with self.assertRaises(ValueError, msg=text):
                cells.parse_pattern(text)

    def test_a_source_is_a_file_or_a_list(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "some.txt"
            path.write_text("3,4,5,2\n", encoding="utf-8")
            self.assertEqual(cells.read_patterns(str(path)), [Pattern(3, 4, 5, 2)])
            path.write_text("# nothing\n", encoding="utf-8")
            with self.assertRaises(ValueError):
                cells.read_patterns(str(path))
        self.assertEqual(cells.read_patterns("3,4,5,2"), [Pattern(3, 4, 5, 2)])
        self.assertGreater(len(cells.read_patterns(None)), 5)
        with self.assertRaisesRegex(ValueError, "neither a file nor a list"):
            cells.read_patterns("missing.txt")

    def test_chains_check_their_sizes(self) -> None:
        self.assertEqual(cells.parse_chain(cells.DEFAULT_CHAIN), (Pattern(1, 64, 64, 64), Pattern(64, 64, 64, 1)))
        with self.assertRaisesRegex(ValueError, "24 columns against 2 rows"):
            cells.parse_chain("(1,2,6,4)(1,2,2,1)")
        for text in ("", "monarch", "(1,2,3,4)x", "1,2,3,4"):
            with self.assertRaises(ValueError, msg=text):
                cells.parse_chain(text)

    def test_shards_part_the_list(self) -> None:
        patterns = [Pattern(1, 1, 1, d) for d in range(1, 12)]
        parts = [cells.shard(patterns, k, 4) for k in range(1, 5)]
        self.assertEqual(sorted(p for part in parts for p in part), sorted(patterns))
        self.assertEqual(parts[1], [patterns[1], patterns[5], patterns[9]])
        for text in ("0/2", "3/2", "1", "a/b"):
            with self.assertRaises(ValueError, msg=text):
                cells.parse_shard(text)

    def test_choices(self) -> None:
        self.assertEqual(cells.parse_choices("bsl, bsf", cells.LAYOUTS), ["bsl", "bsf"])
        for text in ("", "bsx", "bsf,bsx"):
            with self.assertRaises(ValueError, msg=text):
                cells.parse_choices(text, cells.LAYOUTS)

    def test_counts_of_a_cell(self) -> None:
        cell = Cell((Pattern(2, 3, 5, 7),), "bsf", "f32", 10)
        self.assertEqual((cell.rows, cell.cols, cell.flops), (42, 70, 2.0 * 10 * 210))
        self.assertEqual(cell.bytes, 4 * (10 * 112 + 210))
        self.assertEqual(cell.dense_bytes, 4 * 42 * 70)

    def test_named_chains_and_the_example_s_words(self) -> None:
        self.assertEqual(ksd.named_chain("monarch:64,32", 4096), cells.parse_chain("(1,64,32,64)(32,64,128,1)"))
        self.assertEqual(ksd.named_chain("square-dyadic", 8), cells.parse_chain("(1,2,2,4)(2,2,2,2)(4,2,2,1)"))
        for text, size in (("monarch:3,4", 16), ("square-dyadic", 12), ("(1,2,2,2)", 8)):
            with self.assertRaises(ValueError, msg=text):
                ksd.named_chain(text, size)
        line = (
            "16 × 16 f32 into monarch:4,4, l2r, threads 1 (0: all): 0.125 s, relative error 0.751234567, bound 1.000\n"
        )
        self.assertEqual(ksd.read_example(line), (0.125, 0.751234567))
        with self.assertRaises(ValueError):
            ksd.read_example("nothing of the kind")


class Scripted:
    """A contender whose times are given; it counts what is asked of it."""

    def __init__(self, seconds: list[float], error: float = 0.0) -> None:
        self.seconds, self.error, self.tolerance = seconds, error, 1e-6
        self.samples, self.closed = 0, False

    def check(self) -> float:
        return self.error

    def sample(self, calls: int) -> float:
        self.samples += 1
        value = self.seconds[min(self.samples, len(self.seconds)) - 1]
        if math.isnan(value):
            raise RuntimeError("broke down")
        return calls * value

    def close(self) -> None:
        self.closed = True


def identity(contender: Scripted) -> Scripted:
    return contender


class Elimination(unittest.TestCase):
    # Long enough that a call needs no warming and no averaging: one sample is one call.
    policy = Policy(budget_s=0.0, min_samples=5, max_samples=9, sample_s=0.001, warm_below_s=0.0)

    def outcomes(self, script: dict[str, Scripted], excluded: str = "", floor_s: float = 0.0) -> dict[str, Outcome]:
        """What becomes of them; those called `excluded` and `hopeless` get that reason and that floor."""
        listed = [
            Candidate(
                name,
                partial(identity, contender),
                ours=name == "kronsparse",
                excluded=excluded if name == "excluded" else "",
                floor_s=floor_s if name == "hopeless" else 0.0,
            )
            for name, contender in script.items()
        ]
        outcomes = measure(listed, self.policy, random.Random(0))
        self.assertEqual([o.name for o in outcomes], list(script))
        return {o.name: o for o in outcomes}

    def test_near_peers_stay_far_ones_go_and_ours_is_never_dropped(self) -> None:
        script = {
            "slow_first": Scripted([10.0]),
            "best": Scripted([1.0]),
            "near": Scripted([1.4]),
            "middling": Scripted([2.0]),
            "far": Scripted([7.0]),
            "kronsparse": Scripted([50.0]),
        }
        found = self.outcomes(script)
        statuses = {name: (o.status, len(o.seconds)) for name, o in found.items()}
        self.assertEqual(
            statuses,
            {
                "slow_first": ("dropped", 1),
                "best": ("ok", 5),
                "near": ("ok", 5),
                "middling": ("dropped", 3),
                "far": ("dropped", 1),
                "kronsparse": ("ok", 5),
            },
        )
        self.assertTrue(all(c.closed for c in script.values()))

    def test_contended_samples_do_not_throw_out_the_best(self) -> None:
        # It was fast once, in its check: that is remembered while the others are slow by chance.
        found = self.outcomes({"other": Scripted([1.3]), "best": Scripted([1.0, 4.0, 4.0, 1.1])})
        self.assertEqual(found["best"].status, "ok")
        self.assertEqual(summary.median(found["best"].seconds), 1.1)

    def test_wrong_failing_excluded_and_hopeless_ones_have_no_time(self) -> None:
        script = {
            "wrong": Scripted([0.1], error=1e-3),
            "unwritten": Scripted([0.1], error=math.nan),
            "right": Scripted([1.0]),
            "breaks": Scripted([1.0, math.nan]),
            "excluded": Scripted([0.1]),
            "hopeless": Scripted([0.1]),
        }
        found = self.outcomes(script, excluded="no such thing", floor_s=2.5)
        statuses = {name: o.status for name, o in found.items()}
        self.assertEqual(
            statuses,
            {
                "wrong": "wrong",
                "unwritten": "wrong",
                "right": "ok",
                "breaks": "failed",
                "excluded": "skipped",
                "hopeless": "skipped",
            },
        )
        self.assertEqual(script["hopeless"].samples + script["excluded"].samples, 0)
        self.assertIn("broke down", found["breaks"].note)

    def test_short_calls_are_warmed_and_averaged(self) -> None:
        contender = Scripted([1e-4])
        policy = Policy(budget_s=0.0, min_samples=5, max_samples=5, sample_s=0.001)
        (outcome,) = measure([Candidate("peer", lambda: contender)], policy, random.Random(1))
        self.assertEqual(contender.samples, 3 + 2 * 5)
        self.assertAlmostEqual(summary.median(outcome.seconds), 1e-4)


def row(name: str, seconds: float, where: str = "(1,64,64,2)", layout: str = "bsf", status: str = "ok") -> Row:
    flops = 2.0 * 100 * math.prod(pattern(where).shape) if where.count("(") == 1 else 1e9
    return Row(
        where, layout, "f32", 100, 1, name, status, seconds, 0.0, seconds, 5, flops / seconds / 1e9, 1e-7, 1.0, 0.25, ""
    )


class Summary(unittest.TestCase):
    def test_quantiles_interpolate(self) -> None:
        self.assertEqual(summary.median([3.0, 1.0, 2.0]), 2.0)
        self.assertEqual(summary.median([4.0, 1.0, 2.0, 3.0]), 2.5)
        self.assertEqual(summary.iqr([1.0, 2.0, 3.0, 4.0, 5.0]), 2.0)
        self.assertAlmostEqual(summary.iqr([2e-6, 1e-6]), 5e-7, delta=1e-18)
        self.assertTrue(math.isnan(summary.median([])))

    def test_the_best_right_peer_counts(self) -> None:
        rows = [
            row("kronsparse", 1.0),
            row("kronsparse_csr", 0.01),
            row("np_bmm", 3.0),
            row("t_bmm", 2.0, status="dropped"),
            row("t_einsum", 0.5, status="wrong"),
            row("np_dense", math.nan, status="skipped"),
        ]
        (duel,) = summary.duels(rows)
        self.assertEqual((duel.peer, duel.ratio), ("t_bmm", 2.0))
        self.assertEqual(summary.duels([row("np_bmm", 1.0)]), [])
        self.assertEqual(summary.duels([row("kronsparse", 1.0, status="failed"), row("np_bmm", 1.0)]), [])

    def test_text_has_the_median_the_losses_and_the_share_of_the_peak(self) -> None:
        rows = []
        for where, layout, ours, peer in (
            ("(1,64,64,2)", "bsf", 1.0, 3.0),
            ("(1,64,64,4)", "bsf", 1.0, 2.0),
            ("(1,64,64,8)", "bsf", 1.0, 0.5),
            ("(1,64,64,1)", "bsf", 1.0, 100.0),
            ("(1,32,64,2)", "bsl", 1.0, 0.8),
        ):
            rows += [row("kronsparse", ours, where, layout), row("np_bmm", peer, where, layout)]
        text = summary.summarise(rows)
        self.assertIn("bsf, d > 1: 3 cells, speed-up over the best peer: median 2.00", text)
        self.assertIn("min best_peer_time / kronsparse_time 0.500 at (1,64,64,8) bsf; 2 of 5 cells below 0.9", text)
        self.assertIn("0.800  (1,32,64,2) bsl", text)
        # 2·100·64·64·8 FLOP a second against a peak of 1 GFLOP/s; (1,32,64,2) is too narrow to count.
        self.assertIn("4 of 4 cells below 0.7", text)
        self.assertNotIn("FAILED", text)
        self.assertIn("WRONG: (1,64,64,2) bsf x", summary.summarise([*rows, row("x", math.nan, status="wrong")]))

    def test_chains_compare_fused_with_factors_and_peers(self) -> None:
        where = cells.DEFAULT_CHAIN
        rows = [row("kronsparse", 1.0, where), row("kronsparse_factors", 1.5, where), row("t_bmm", 3.0, where)]
        self.assertIn(
            "factor by factor 1500.0000 ms (1.50x), best peer t_bmm 3000.0000 ms (3.00x)", summary.summarise(rows)
        )

    def test_rows_survive_a_file(self) -> None:
        rows = [row("kronsparse", 0.125), row("np_bmm", math.nan, status="skipped")]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.csv"
            with path.open("w", encoding="utf-8") as file:
                summary.write_rows(file, rows[:1], header=True)
                summary.write_rows(file, rows[1:], header=False)
            read = summary.read_rows(path)
            self.assertEqual(read[0], rows[0])
            self.assertTrue(math.isnan(read[1].median_s))
            path.write_text("a,b\n1,2\n", encoding="utf-8")
            with self.assertRaisesRegex(ValueError, "expected the columns"):
                summary.read_rows(path)
            with contextlib.redirect_stderr(io.StringIO()) as complaint:
                self.assertEqual(summary.main([str(path)]), 2)
            self.assertIn("rows.csv", complaint.getvalue())


class Peers(unittest.TestCase):
    def test_every_peer_multiplies_rightly(self) -> None:
        chains = ["(2,3,5,4)", "(3,4,5,1)", "(1,6,4,3)", "(1,5,7,1)", "(1,4,6,6)(4,9,5,1)"]
        for text in chains:
            for layout in cells.LAYOUTS:
                for dtype in ("f32", "f64", "bf16"):
                    inputs = Inputs(Cell(cells.parse_chain(text), layout, dtype, 11))
                    ran = []
                    for candidate in contenders.candidates(inputs, None, [], 1e12, None):
                        if not candidate.excluded:
                            contender = candidate.open()
                            self.assertLessEqual(contender.check(), contender.tolerance, (candidate.name, inputs.cell))
                            self.assertGreater(contender.sample(2), 0.0)
                            ran.append(candidate.name)
                    self.assertIn("t_bmm_out", ran)
                    self.assertEqual("np_bmm" in ran, dtype != "bf16")
                    self.assertEqual("t_strided" in ran, layout == "bsl" or text.endswith(",1)"))

    def test_the_check_sees_wrong_missing_and_misplaced_numbers(self) -> None:
        inputs = Inputs(Cell((Pattern(2, 3, 5, 4),), "bsf", "f32", 11), seed=5)
        right = inputs.x @ dense_factor(inputs.weights[0], inputs.cell.chain[0]).T
        self.assertLess(inputs.error(right), 1e-6)
        wrong = right.clone()
        wrong[-1, 7] += 1.0
        self.assertGreater(inputs.error(wrong), 1e-3)
        missing = right.clone()
        missing[3, 3] = math.nan
        self.assertEqual(inputs.error(missing), math.inf)
        self.assertEqual(inputs.error(right.T.contiguous()), math.inf)
        self.assertEqual(inputs.error(right.T.contiguous().T), math.inf)
        self.assertEqual(inputs.error(right.double()), math.inf)

    def test_the_dense_matrix_is_that_of_the_definition(self) -> None:
        p = Pattern(2, 3, 2, 4)
        weights = Inputs(Cell((p,), "bsf", "f64", 1)).weights[0]
        dense = dense_factor(weights, p)
        self.assertEqual(int((dense != 0).sum()), p.nnz)
        for i, o, k, j in ((0, 0, 0, 0), (1, 2, 1, 3), (1, 0, 1, 2)):
            at = dense[(i * p.b + o) * p.d + j, (i * p.c + k) * p.d + j]
            self.assertEqual(float(at), float(weights[i, o, k, j]))


if __name__ == "__main__":
    unittest.main()
