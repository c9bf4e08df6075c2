//! The enumeration against brute force over all patterns, on small shapes; awkward and large sizes.

use std::collections::BTreeSet;

use super::*;

/// Every chain of `factors` patterns from `rows` to `cols`, sizes matching, nothing else asked: by trying all numbers.
fn brute_force(rows: usize, cols: usize, factors: usize, most: usize) -> Vec<Vec<Pattern>> {
    let mut chains: Vec<Vec<Pattern>> = vec![Vec::new()];
    for at in 0..factors {
        let mut longer = Vec::new();
        for chain in &chains {
            let size = chain.last().map_or(rows, |pattern: &Pattern| pattern.cols());
            let used: usize = chain.iter().map(|pattern| pattern.nnz()).sum();
            for (a, b) in (1..=size).flat_map(|a| (1..=size).map(move |b| (a, b))) {
                if size % (a * b) != 0 || used > most {
                    continue;
                }
                let d = size / (a * b);
                // The last factor ends at `cols`; before it, any width that the budget leaves.
                let widths = (1..=most.saturating_sub(used) / size).filter(|c| at + 1 < factors || a * c * d == cols);
                for c in widths {
                    longer.push([&chain[..], &[Pattern::new(a, b, c, d).unwrap()]].concat());
                }
            }
        }
        chains = longer;
    }
    chains
}

/// The documented conditions, written anew from the patterns alone.
fn wanted(patterns: &[Pattern], search: &Search, rows: usize, cols: usize) -> bool {
    let chain = ChainPattern::new(patterns.to_vec()).unwrap();
    let share = chain.parameters() as f64 / (rows * cols) as f64;
    if share < search.budget.least() || share > search.budget.most() {
        return false;
    }
    if let [one] = patterns {
        return search.partial && one.a() * one.d() > 1;
    }
    let Ok(ranks) = chain.ranks() else { return false };
    let dense = chain.product(0..patterns.len()).unwrap().shape() == [1, rows, cols, 1];
    let tight = patterns.windows(2).zip(&ranks).all(|(pair, &rank)| rank < pair[0].b() && rank < pair[1].c());
    let low_rank = patterns.len() == 2 && patterns.iter().all(|p| p.a() * p.d() == 1);
    let idle = !low_rank && patterns.iter().any(|p| p.b() == 1 || p.c() == 1);
    if !dense || !tight || idle || (low_rank && !search.low_rank) {
        return false;
    }
    if patterns.len() == 2 {
        return true;
    }
    let even = |steps: Vec<usize>| steps.iter().max().unwrap() <= &(16 * steps.iter().min().unwrap());
    let rank = |at: usize| ranks.get(at).copied().unwrap_or(1);
    let b: Vec<usize> =
        patterns.iter().enumerate().map(|(at, p)| p.b() / if at == 0 { 1 } else { rank(at - 1) }).collect();
    let c: Vec<usize> = patterns.iter().enumerate().map(|(at, p)| p.c() / rank(at)).collect();
    ranks.windows(2).all(|pair| pair[0] == pair[1]) && even(b) && even(c)
}

#[test]
fn the_space_is_that_of_brute_force() {
    let budget = |least, most| Budget::new(least, most).unwrap();
    let mut total = 0;
    for (rows, cols, budget, factors) in [
        (12, 8, budget(0.0, 1.0), 2),
        (8, 12, budget(0.3, 0.9), 2),
        (6, 10, budget(0.0, 0.8), 2),
        (7, 9, budget(0.2, 0.9), 2),
        (8, 8, budget(0.0, 1.0), 3),
        (12, 6, budget(0.5, 1.0), 3),
        (8, 8, budget(0.5, 1.0), 4),
    ] {
        for (low_rank, partial) in [(true, false), (false, true)] {
            let search = Search { budget, max_factors: factors, low_rank, partial };
            let most = (rows as f64 * cols as f64 * budget.most()) as usize;
            let all = (1..=factors).flat_map(|factors| brute_force(rows, cols, factors, most));
            let expected: BTreeSet<String> = all
                .filter(|patterns| wanted(patterns, &search, rows, cols))
                .map(|patterns| ChainPattern::new(patterns).unwrap().to_string())
                .collect();
            let found = search.chains(rows, cols).unwrap_or_default();
            assert!(found.windows(2).all(|pair| pair[0].parameters() <= pair[1].parameters()));
            let names: BTreeSet<String> = found.iter().map(ToString::to_string).collect();
            assert_eq!(names.len(), found.len(), "{rows} × {cols}: some chains are there twice");
            assert_eq!(names, expected, "{rows} × {cols}, {factors} factors, {budget}, low rank {low_rank}");
            total += names.len();
        }
    }
    assert!(total > 100, "only {total} chains: the comparison says little");
}

#[test]
fn parameters_are_those_of_the_weights() {
    let search = Search { partial: true, ..Search::default() };
    for (rows, cols) in [(384, 1536), (60, 84)] {
        for chain in search.chains(rows, cols).unwrap() {
            let weights: usize = chain.patterns().iter().map(|p| p.a() * p.b() * p.c() * p.d()).sum();
            assert_eq!(chain.parameters(), weights);
            assert!((0.1..=0.5).contains(&(weights as f64 / (rows * cols) as f64)), "{chain}");
            assert_eq!((chain.rows(), chain.cols()), (rows, cols));
            assert!(chain.is_chainable() && chain.patterns().len() <= 4);
        }
    }
}

#[test]
fn the_usual_chains_are_in_the_space() {
    let has = |budget: &str, rows, cols, chain: &str| {
        let search = Search { budget: budget.parse().unwrap(), ..Search::default() };
        search.chains(rows, cols).unwrap().iter().any(|found| found.to_string() == chain)
    };
    assert!(has("0.02..0.5", 4096, 4096, "(1,64,64,64)(64,64,64,1)"), "Monarch");
    assert!(has("0.1..0.5", 4096, 4096, "(1,64,256,64)(64,256,64,1)"), "rank 4");
    assert!(has("0.25", 4096, 4096, "(1,4096,512,1)(1,512,4096,1)"), "low rank");
    assert!(has("0.01..0.02", 4096, 4096, "(1,16,16,256)(16,16,16,16)(256,16,16,1)"), "butterfly of radix 16");
    assert!(has("0.001..0.02", 4096, 4096, "(1,8,8,512)(8,8,8,64)(64,8,8,8)(512,8,8,1)"), "butterfly of radix 8");
}

#[test]
fn awkward_sizes_have_chains_or_a_sentence() {
    let search = Search::default();
    // A prime number of outputs cannot be cut into classes of rows.
    let prime = search.chains(50261, 768).unwrap();
    assert!(!prime.is_empty() && prime.iter().all(|chain| chain.patterns()[0].d() == 1));
    // 29 · 1733: no longer chains with even steps.
    assert!(search.chains(50257, 768).unwrap().iter().all(|chain| chain.patterns().len() == 2));
    for (rows, cols) in [(384, 384), (11008, 4096), (4096, 11008), (4096, 14336), (55440, 55440)] {
        let found = search.chains(rows, cols).unwrap();
        for factors in 2..=4 {
            assert!(found.iter().any(|chain| chain.patterns().len() == factors), "{rows} × {cols}: {factors} factors");
        }
        assert!(found.len() < 200_000, "{rows} × {cols}: {} chains", found.len());
    }
    let why = |search: Search, rows, cols| search.chains(rows, cols).unwrap_err().to_string();
    let blocks = Search { low_rank: false, ..search };
    let prime = why(blocks, 50261, 101);
    assert!(prime.contains("50261 has no divisors") && prime.contains("101 has no divisors"), "{prime}");
    let small = why(search, 2, 3);
    assert!(small.contains("that is 3 parameters") && small.contains("rows + cols = 5"), "{small}");
    assert!(why(search, 1, 1).contains("stay dense"));
    assert!(why(Search { max_factors: 1, ..search }, 64, 64).contains("dense matrix itself"));
    assert!(why(Search { max_factors: 5, ..search }, 64, 64).contains("1 to 4 factors"));
    assert!(why(search, 0, 64).contains("outputs, found 0"));
    assert!(why(search, 64, usize::MAX).contains("inputs, found 18446744073709551615"));
    assert!(why(search, 1 << 32, 1 << 32).contains("address space"));
}

#[test]
fn budgets_as_text() {
    let read = |text: &str| text.parse::<Budget>().map_err(|error| error.to_string());
    assert_eq!(read("0.1..0.5"), Ok(Budget::default()));
    assert_eq!(read("0.1…0.5"), Ok(Budget::default()));
    let one = read("0.25").unwrap();
    assert!((one.least() - 0.225).abs() < 1e-12 && one.most() == 0.25);
    for wrong in ["0.5..0.1", "0", "-0.1..0.5", "0.5..1.5", "NaN", "0.1..inf"] {
        assert!(read(wrong).unwrap_err().contains("between 0 and 1"), "{wrong}");
    }
    for wrong in ["", "x", "0.1..", "0.1..0.2..0.3"] {
        assert!(read(wrong).unwrap_err().contains("expected a share"), "{wrong}");
    }
}

#[test]
fn ranks_are_all_or_round() {
    assert_eq!(round_ranks(3, 10), [3, 4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(round_ranks(5, 77), [5, 6, 8, 12, 16, 24, 32, 48, 64, 72, 77]);
    assert!(round_ranks(5, 4).is_empty());
}
