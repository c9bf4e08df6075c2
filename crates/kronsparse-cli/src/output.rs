//! What every command does with its output: printing, the error line, and the checks before a file is written.

use std::io::{self, Write};
use std::path::Path;

use anstyle::{AnsiColor, Style};
use anyhow::{Result, anyhow, bail};
use serde_json::Value;

/// Headings in bold, on a terminal.
pub(crate) const HEADING: Style = Style::new().bold();
const ERROR: Style = AnsiColor::Red.on_default().bold();

/// Prints one line `error: …` on stderr, coloured on a terminal; line breaks in `message` become spaces.
pub(crate) fn error_line(message: &str) {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let _ = writeln!(anstream::stderr(), "{ERROR}error:{ERROR:#} {line}");
}

/// Prints `text` on stdout, without its colours when that is no terminal. A reader that went away is no error.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = anstream::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => bail!("cannot write to standard output: {error}"),
        _ => Ok(()),
    }
}

/// Prints one JSON document, indented.
pub(crate) fn print_json(value: &Value) -> Result<()> {
    print(&format!("{value:#}\n"))
}

/// A number for JSON: NaN and infinity, which JSON lacks, become `null`.
pub(crate) fn json_number(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// Refuses an output that cannot be written or that is one of the inputs, before any work is done.
///
/// `inputs` may carry `::name` suffixes. The file itself is neither created nor touched.
pub(crate) fn check_output(output: &Path, inputs: &[&str]) -> Result<()> {
    let shown = output.display();
    if output.is_dir() {
        bail!("{shown}: cannot write the output there: it is a folder");
    }
    let folder = match output.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        bail!("{shown}: cannot write the output there: {} is not an existing folder", folder.display());
    }
    tempfile::tempfile_in(folder)
        .map_err(|error| anyhow!("{shown}: cannot write the output there: {}: {error}", folder.display()))?;
    if let Ok(real) = output.canonicalize() {
        for input in inputs {
            let file = split_source(input).0;
            if Path::new(file).canonicalize().is_ok_and(|input| input == real) {
                bail!("{shown}: the output is the input file; give another name");
            }
        }
    }
    Ok(())
}

/// Refuses an output whose name does not end in `extension`, so that the contents are what the name says.
pub(crate) fn check_extension(output: &Path, extension: &str) -> Result<()> {
    if output.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension)) {
        return Ok(());
    }
    bail!("{}: the output is a .{extension} file; its name must end in .{extension}", output.display())
}

/// `FILE::NAME` into `(FILE, Some(NAME))`, `FILE` into `(FILE, None)`.
pub(crate) fn split_source(source: &str) -> (&str, Option<&str>) {
    match source.split_once("::") {
        Some((file, name)) => (file, Some(name)),
        None => (source, None),
    }
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `[4, 384]` as `4 × 384`; a scalar's empty shape as `()`.
pub(crate) fn shape_text(shape: &[usize]) -> String {
    if shape.is_empty() {
        return "()".into();
    }
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" × ")
}

/// Seconds with a unit that suits their size.
pub(crate) fn seconds_text(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.1} µs", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_in_threes() {
        let shown: Vec<String> = [0, 12, 123, 1234, 123_456, 1_234_567].into_iter().map(grouped).collect();
        assert_eq!(shown, ["0", "12", "123", "1,234", "123,456", "1,234,567"]);
    }

    #[test]
    fn sources_and_seconds() {
        assert_eq!(split_source("a.npz::x::y"), ("a.npz", Some("x::y")));
        assert_eq!(split_source("a.npy"), ("a.npy", None));
        assert_eq!([2.5e-6, 0.0125, 3.0].map(seconds_text), ["2.5 µs", "12.50 ms", "3.00 s"]);
        assert_eq!(json_number(f64::NAN), Value::Null);
    }

    #[test]
    fn an_output_over_an_input_or_nowhere_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.npy");
        std::fs::write(&file, b"x").unwrap();
        let name = file.to_str().unwrap().to_owned();
        let message = |output: &Path| check_output(output, &[&format!("{name}::t")]).unwrap_err().to_string();
        assert!(message(&file).contains("is the input file"));
        assert!(message(folder.path()).contains("it is a folder"));
        assert!(message(&folder.path().join("no/b.npy")).contains("not an existing folder"));
        assert!(check_output(&folder.path().join("b.npy"), &[&name]).is_ok());
        assert!(!folder.path().join("b.npy").exists());
        assert!(check_extension(Path::new("x.NPY"), "npy").is_ok());
        assert!(check_extension(Path::new("x"), "npy").is_err());
    }
}
