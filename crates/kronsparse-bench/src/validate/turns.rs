//! Samples of several ways in turn: a few of all, more of those that may be the fastest.

use kronsparse::Result;
use kronsparse::measure::interquartile_mean;

/// Ways that take so many times as long as the fastest are sampled in so many more rounds: most where 3 percent are to be told apart, of
/// which the least of ten noisy times would be some.
const ROUNDS: [(f64, usize); 4] = [(f64::INFINITY, 3), (1.6, 6), (1.15, 15), (1.08, 30)];
/// What is judged is sampled in all rounds where it takes less than so many times as long as the fastest: a time of two samples may be wrong.
const JUDGED: f64 = 4.0;

/// Samples of a way, or why it has none.
pub(super) type Samples = std::result::Result<Vec<f64>, String>;

/// `sample` gives the seconds of one call of a way, by its number. A first call of each is not counted. A way that fails has no
/// samples. Those that `judged` names are sampled as often as those that may be the fastest.
pub(super) fn in_turn(
    ways: usize,
    judged: impl Fn(usize) -> bool,
    mut sample: impl FnMut(usize) -> Result<f64>,
) -> Vec<Samples> {
    let mut all: Vec<Samples> = (0..ways).map(|way| sample(way).map(|_| Vec::new()).map_err(text)).collect();
    for (within, rounds) in ROUNDS {
        let times: Vec<Option<f64>> = all
            .iter()
            .map(|samples| samples.as_ref().ok().map(|samples| interquartile_mean(samples).unwrap_or(0.0)))
            .collect();
        let least = times.iter().flatten().copied().fold(f64::INFINITY, f64::min);
        let close: Vec<usize> = (0..ways)
            .filter(|&way| {
                let within = if judged(way) { within.max(JUDGED) } else { within };
                times[way].is_some_and(|time| time <= least * within || least == 0.0)
            })
            .collect();
        for _ in 0..rounds {
            for &way in &close {
                if let Ok(samples) = &mut all[way] {
                    match sample(way) {
                        Ok(seconds) => samples.push(seconds),
                        Err(error) => all[way] = Err(text(error)),
                    }
                }
            }
        }
    }
    all
}

/// An error that several samples need.
pub(super) fn copied(error: &kronsparse::Error) -> kronsparse::Error {
    kronsparse::Error::Unsupported { what: "this way".into(), why: error.to_string() }
}

fn text(error: kronsparse::Error) -> String {
    error.to_string().replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fast_ones_are_sampled_most_and_failures_stay_failures() {
        let made_up = [1.0, 1.05, 1.4, 9.0, 3.0, 9.0];
        let mut calls = [0; 7];
        let all = in_turn(
            7,
            |way| way == 4 || way == 5,
            |way| {
                calls[way] += 1;
                let lost = kronsparse::Error::Unsupported { what: "this".into(), why: "it fails".into() };
                made_up.get(way).copied().ok_or(lost)
            },
        );
        assert_eq!(calls, [55, 55, 10, 4, 55, 4, 1]);
        assert_eq!(all[0].as_ref().map(Vec::len), Ok(54));
        assert!(all[6].as_ref().unwrap_err().contains("it fails"));
    }
}
