//! Whole models beside the article's: the times of `python/examples/end_to_end.py`, read, checked, and shown on the page.

use std::collections::HashSet;
use std::fmt::Write;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::published::MODELS;
use super::tables::table;
use crate::format::{percent, significant};
use crate::record::write_whole;
use crate::report::svg::escape;
use crate::{Error, Result};

/// The file's name in a study's folder.
const NAME: &str = "end_to_end.csv";

/// A line of the file, as far as it is shown; it has other columns too.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Line {
    model: String,
    case: String,
    dtype: String,
    /// `dense` or `kronsparse`.
    linear: String,
    /// `eager`, `graph` or `compile`.
    mode: String,
    /// Median of single forwards.
    milliseconds: f64,
    /// Numbers in the model.
    parameters: u64,
    /// Of a forward, idle power included.
    joules: Option<f64>,
    device: String,
    torch: String,
}

/// The forwards of whole models with `nn.Linear` and with `KSLinear`.
#[derive(Clone, Debug, PartialEq)]
pub struct Models {
    text: String,
    lines: Vec<Line>,
}

/// One model, input, element type and mode with both kinds of layers.
struct Pair<'a> {
    dense: &'a Line,
    ours: &'a Line,
}

impl Pair<'_> {
    /// Our time over that of dense layers.
    fn time(&self) -> f64 {
        self.ours.milliseconds / self.dense.milliseconds
    }
    /// Likewise for energy, where both have it.
    fn energy(&self) -> Option<f64> {
        Some(self.ours.joules? / self.dense.joules?)
    }
}

impl Models {
    /// Reads the CSV file that `end_to_end.py` wrote. Errors: it cannot be read, lacks a column, has a line that is cut off, a number that
    /// is no time, a kind of layer or mode that is none, or two lines of one forward.
    pub fn read(path: &Path) -> Result<Models> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
        Models::parse(text, path)
    }

    /// What lies in a study's folder; `None` where there is no such file. Errors: as [`Models::read`].
    pub(super) fn of_study(folder: &Path) -> Result<Option<Models>> {
        let path: PathBuf = folder.join(NAME);
        match std::fs::read_to_string(&path) {
            Ok(text) => Models::parse(text, &path).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(&path, "read")(error)),
        }
    }

    /// Copies the file into a study's folder, where its page finds it.
    pub fn keep(&self, folder: &Path) -> Result<()> {
        write_whole(&folder.join(NAME), &self.text)
    }

    fn parse(text: String, path: &Path) -> Result<Models> {
        let fail = |why: String| Error::Record { path: path.into(), why };
        let is_none = |why: String| fail(format!("is no table of python/examples/end_to_end.py: {why}"));
        let lines = csv::Reader::from_reader(text.as_bytes()).into_deserialize().collect::<csv::Result<Vec<Line>>>();
        let lines = lines.map_err(|e| is_none(e.to_string()))?;
        if lines.is_empty() {
            return Err(is_none("it has no lines".into()));
        }
        let mut seen = HashSet::new();
        for (number, line) in (2..).zip(&lines) {
            let Line { model, case, dtype, linear, mode, milliseconds, joules, .. } = line;
            let positive = |x: f64| x.is_finite() && x > 0.0;
            if !["dense", "kronsparse"].contains(&linear.as_str()) {
                return Err(is_none(format!("line {number}: expected dense or kronsparse layers, found `{linear}`")));
            }
            if !["eager", "graph", "compile"].contains(&mode.as_str()) {
                return Err(is_none(format!(
                    "line {number}: expected the mode eager, graph or compile, found `{mode}`"
                )));
            }
            if !positive(*milliseconds) || joules.is_some_and(|joules| !positive(joules)) || line.parameters == 0 {
                let found = joules.map_or(String::new(), |joules| format!(", {joules} J"));
                return Err(is_none(format!(
                    "line {number}: expected positive numbers, found {milliseconds} ms{found}, {} parameters",
                    line.parameters
                )));
            }
            if !seen.insert((model, case, dtype, linear, mode)) {
                return Err(fail(format!("line {number}: {model}, {case}, {dtype}, {linear}, {mode} is there twice")));
            }
        }
        Ok(Models { text, lines })
    }

    /// What was measured with both kinds of layers, in the order of the file.
    fn pairs(&self) -> Vec<Pair<'_>> {
        let same = |a: &Line, b: &Line| {
            (&a.model, &a.case, &a.dtype, &a.mode, &a.device) == (&b.model, &b.case, &b.dtype, &b.mode, &b.device)
        };
        let ours = self.lines.iter().filter(|line| line.linear == "kronsparse");
        let pair = |ours| {
            let dense = self.lines.iter().find(|line| line.linear == "dense" && same(line, ours))?;
            Some(Pair { dense, ours })
        };
        ours.filter_map(pair).collect()
    }

    /// What the time of a model in f32 is beside that with dense layers, in words; `None` if it was not measured with both. `eager` where
    /// there is a choice, as in the article.
    pub(super) fn beside(&self, model: &str) -> Option<String> {
        let mut pairs: Vec<Pair<'_>> = self.pairs();
        pairs.retain(|pair| pair.ours.model == model && pair.ours.dtype == "f32");
        let best = |a: &&Pair<'_>, b: &&Pair<'_>| a.time().total_cmp(&b.time());
        let eager = pairs.iter().filter(|pair| pair.ours.mode == "eager").min_by(best);
        let pair = eager.or(pairs.iter().min_by(best))?;
        Some(format!("{} ({}, {})", change(pair.time()), pair.ours.case, pair.ours.mode))
    }

    /// The table of all models.
    pub(super) fn section(&self, body: &mut String) {
        let pairs = self.pairs();
        if pairs.is_empty() {
            return;
        }
        let joules = |line: &Line| line.joules.map_or("–".into(), significant);
        let rows: Vec<Vec<String>> = pairs
            .iter()
            .map(|pair| {
                let Pair { dense, ours } = pair;
                let published = MODELS.iter().find(|m| m.name == ours.model);
                let article = published.filter(|_| ours.dtype == "f32").map_or("", |m| m.value);
                vec![
                    published.map_or(escape(&ours.model), |m| m.title.into()),
                    escape(&ours.case),
                    escape(&ours.dtype),
                    escape(&ours.mode),
                    significant(dense.milliseconds),
                    significant(ours.milliseconds),
                    format!("<b>{}</b>", change(pair.time())),
                    article.into(),
                    joules(dense),
                    joules(ours),
                    pair.energy().map_or("–".into(), change),
                    percent(ours.parameters as f64 / dense.parameters as f64),
                ]
            })
            .collect();
        let mut machines: Vec<String> =
            pairs.iter().map(|pair| format!("{}, PyTorch {}", pair.ours.device, pair.ours.torch)).collect();
        machines.sort();
        machines.dedup();
        let heads = [
            "model",
            "input",
            "dtype",
            "mode",
            "nn.Linear, ms",
            "KSLinear, ms",
            "time",
            "the article",
            "nn.Linear, J",
            "KSLinear, J",
            "energy",
            "parameters left",
        ];
        let _ = writeln!(
            body,
            "<section id=\"models\"><h2>Whole models</h2><p class=\"note\">A forward of the model in PyTorch, its blocks' linear layers dense or \
             Kronecker-sparse with random weights; medians, and energy of forwards without pause, idle power included. A graph is a CUDA \
             graph of the forward. By <code>python/examples/end_to_end.py</code> on {}; the figures are in <code>{NAME}</code>.</p>{}</section>",
            escape(&machines.join("; ")),
            table(&heads, &rows)
        );
    }
}

/// A ratio to what was before, as a change.
fn change(ratio: f64) -> String {
    if ratio <= 1.0 { format!("{} less", percent(1.0 - ratio)) } else { format!("{} more", percent(ratio - 1.0)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "model,case,dtype,linear,mode,milliseconds,parameters,minimum_ms,maximum_ms,joules,device,driver,torch\n";

    fn line(model: &str, dtype: &str, linear: &str, mode: &str, ms: f64, joules: &str) -> String {
        format!("{model},batch 8,{dtype},{linear},{mode},{ms},1000,1,2,{joules},A GPU,1.2,2.11\n")
    }

    fn parse(text: &str) -> Result<Models> {
        Models::parse(text.to_string(), Path::new("m.csv"))
    }

    #[test]
    fn models_stand_beside_the_article() {
        let text = [
            HEAD.to_string(),
            line("vit_s16", "f32", "dense", "graph", 10.0, "20"),
            line("vit_s16", "f32", "kronsparse", "graph", 4.0, "5"),
            line("vit_s16", "f32", "dense", "eager", 10.0, ""),
            line("vit_s16", "f32", "kronsparse", "eager", 7.5, ""),
            line("mine<b>", "f16", "dense", "eager", 2.0, ""),
            line("mine<b>", "f16", "kronsparse", "eager", 3.0, ""),
            line("gpt2_medium", "f32", "kronsparse", "eager", 3.0, ""),
        ];
        let models = parse(&text.concat()).unwrap();
        assert_eq!(models.beside("vit_s16").unwrap(), "25 % less (batch 8, eager)");
        assert_eq!(models.beside("gpt2_medium"), None, "without dense layers there is nothing to compare");
        let mut body = String::new();
        models.section(&mut body);
        assert_eq!(body.matches("<tr><td>").count(), 3, "{body}");
        for part in ["60 % less", "75 % less", "50 % more", "up to 22 % less", "mine&lt;b&gt;", "A GPU, PyTorch 2.11"] {
            assert!(body.contains(part), "`{part}` is missing in {body}");
        }
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Models::of_study(folder.path()).unwrap(), None);
        models.keep(folder.path()).unwrap();
        assert_eq!(Models::of_study(folder.path()).unwrap(), Some(models));
    }

    #[test]
    fn damaged_files_are_refused_with_a_sentence() {
        let good = [HEAD.to_string(), line("vit_s16", "f32", "dense", "graph", 10.0, "20")].concat();
        assert!(parse(&good).is_ok());
        let ours = |text: &str| [&good, text].concat();
        for (text, words) in [
            (String::new(), "it has no lines"),
            (HEAD.to_string(), "it has no lines"),
            (good.replace("milliseconds", "ms"), "missing field `milliseconds`"),
            (ours("vit_s16,batch 8,f32,kron"), "found record with 4 fields"),
            (ours(&line("vit_s16", "f32", "sparse", "graph", 1.0, "")), "line 3: expected dense or kronsparse"),
            (ours(&line("vit_s16", "f32", "kronsparse", "fast", 1.0, "")), "expected the mode eager"),
            (ours(&line("vit_s16", "f32", "kronsparse", "graph", -1.0, "")), "found -1 ms, 1000 parameters"),
            (ours(&line("vit_s16", "f32", "kronsparse", "graph", f64::NAN, "")), "found NaN ms"),
            (ours(&line("vit_s16", "f32", "kronsparse", "graph", 1.0, "0")), "found 1 ms, 0 J"),
            (
                ours(&line("vit_s16", "f32", "dense", "graph", 1.0, "")),
                "line 3: vit_s16, batch 8, f32, dense, graph is there twice",
            ),
            (ours("\u{0}\u{1}"), "found record with 1 field"),
        ] {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains(words) && error.starts_with("m.csv: "), "expected `{words}` in: {error}");
        }
    }

    #[test]
    fn the_recorded_models_are_read() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../record/2026-11-23-h100/joins/end_to_end.csv");
        let models = Models::read(&path).unwrap();
        assert_eq!(models.pairs().len(), models.lines.len() / 2);
        for model in MODELS {
            assert!(models.beside(model.name).unwrap().contains("less"), "{}", model.name);
        }
    }
}
