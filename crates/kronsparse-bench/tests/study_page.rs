//! The page of a study in a real browser: figures drawn, filters at work, hover and keyboard, nothing in the console, no network.
//!
//! Needs Chromium; without one it says so, unless `KRONSPARSE_REQUIRE_BROWSER` is set.

// The driver is a module of this test, so `pub` reaches no further.
#![allow(unreachable_pub)]

mod browser;

use std::time::{SystemTime, UNIX_EPOCH};

use kronsparse::plan::Algorithm;
use kronsparse_bench::machine::Gpu;
use kronsparse_bench::study::{self, Device, Grid, Plan, Request, Settings, Shard};
use kronsparse_bench::{Ceiling, Kind, Machine, Record, Row, Status, record};

use browser::Page;

/// A study of the quick grid as a GPU might have measured it: all figures are made up, fresh in every run.
fn made_up() -> (Record, Plan) {
    let request = Request { grid: Grid::Quick, gpu: true, kinds: Vec::new(), layouts: Vec::new(), batch: Vec::new() };
    let settings = Settings {
        device: Device::Cuda(0),
        algorithms: Vec::new(),
        budget: 0.003,
        energy: Some(0.4),
        threads: 1,
        memory_limit: 1 << 28,
        longest: 0.004,
        give_up: 3.0,
        limit: None,
        command: "a test".into(),
    };
    let plan = Plan::new(&request, Shard::default(), settings).expect("a plan");
    let mut state = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_nanos() as u64 | 1;
    println!("seed {state}");
    let mut random = || {
        // xorshift64 (Marsaglia, 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut rows = Vec::new();
    for cell in &plan.cells.0 {
        for &algorithm in plan.algorithms(true) {
            let mut row = Row::blank(&cell.case, algorithm, 1, 7);
            if algorithm == Algorithm::Bsr {
                row.reason = "a reason with </script> & <b>signs</b>".into();
            } else {
                let seconds = row.problem().bytes() / 1e12 * (0.5 + 2.0 * random()) + 2e-6;
                row.status = Status::Ok;
                (row.median_s, row.iqr_s, row.samples) = (Some(seconds), Some(0.05 * seconds), 9);
                row.gflops = Some(row.problem().flops() / seconds / 1e9);
                row.energy_j = Some(300.0 * seconds * (0.5 + random()));
                row.rel_error = Some(1e-7);
                row.plan = format!("{algorithm} with tiles of 64");
            }
            if algorithm == Algorithm::PermuteBmm {
                row.permutation_share = Some(random());
            }
            rows.push(row);
        }
    }
    let gpu = Gpu {
        name: "A GPU".into(),
        driver: "1".into(),
        capability: [9, 0],
        multiprocessors: 1,
        memory_bytes: 1,
        l2_bytes: 1,
        libraries: Vec::new(),
    };
    let machine = Machine { gpu: Some(gpu), profile: "release".into(), ..Machine::detect() };
    let settings = record::Settings {
        definition: "study".into(),
        description: String::new(),
        command: "a test".into(),
        date: "2026-01-02T03:04:05Z".into(),
        duration_s: 1.0,
        threads: 1,
        seed: 7,
        budget_s: 0.003,
        memory_limit: 1 << 28,
        evicted_bytes: 1,
        clock_resolution_s: 5e-7,
    };
    let ceiling = |dtype: Kind| Ceiling { dtype, threads: 1, flops_per_second: 1e15, bytes_per_second: 3e12 };
    let ceilings = ["f32", "tf32", "f16", "bf16"].map(|kind| ceiling(kind.parse().expect("a type"))).to_vec();
    (Record { machine, settings, ceilings, rows }, plan)
}

/// Elements of a selector that are seen.
fn seen(selector: &str) -> String {
    format!("[...document.querySelectorAll('{selector}')].filter((e) => getComputedStyle(e).display !== 'none').length")
}

/// Chooses an option of a filter, as a reader would.
fn choose(page: &mut Page, by: &str, value: &str) {
    page.value(&format!(
        "{{ const s = document.querySelector('[data-by=\"{by}\"]'); s.value = '{value}'; s.dispatchEvent(new Event('change')); }}"
    ));
}

#[test]
fn the_page_works_in_a_browser() {
    let Some(program) = browser::find() else {
        assert!(std::env::var_os("KRONSPARSE_REQUIRE_BROWSER").is_none(), "a browser is required, and there is none");
        println!("NOT RUN: there is no Chromium on the path, and KRONSPARSE_BROWSER names none");
        return;
    };
    let (record, plan) = made_up();
    let folder = tempfile::tempdir().expect("a folder");
    study::write_page(&record, &plan.head, folder.path()).expect("written");
    let file = folder.path().join("study.html");
    let cells = plan.cells.0.len();
    let single = plan.cells.0.iter().filter(|c| c.case.problem.chain.patterns().len() == 1).count();
    let with = |kind: &str, layout: &str| {
        let fits = |c: &&study::Cell| c.case.kind.to_string() == kind && c.case.problem.layout.name() == layout;
        let found = plan.cells.0.iter().filter(fits);
        let single = found.clone().filter(|c| c.case.problem.chain.patterns().len() == 1).count();
        (found.count(), single)
    };

    let mut page = Page::open(&program, &file, true);
    // All figures are drawn, with a point for every cell that belongs there.
    for plot in ["speedup", "energy", "rewriting"] {
        assert_eq!(page.count(&seen(&format!("svg[data-plot={plot}] circle"))), single, "{plot}");
    }
    assert_eq!(page.count("document.querySelectorAll('figure.panel').length"), 4 * 4 * 2);
    assert_eq!(page.count(&seen("#cells tbody tr")), cells);
    let bars =
        "[...document.querySelectorAll('.bar[data-bin]')].reduce((sum, bar) => sum + Number(bar.dataset.count), 0)";
    assert_eq!(page.count(bars), cells);
    let height = |page: &mut Page| {
        page.count("Math.round(document.querySelector('svg[data-plot=speedup]').getBoundingClientRect().height)")
    };
    assert!(height(&mut page) > 200, "the figure has a size");
    assert_eq!(page.text("document.querySelector('[data-stat=count]').textContent"), "96");
    assert!(!page.value("document.querySelector('.filters').hidden").as_bool().unwrap_or(true));

    // Filters: points, bars, rows, panels, medians and numbers follow.
    let before = page.text("document.querySelector('svg[data-plot=speedup] .mid').getAttribute('y1')");
    choose(&mut page, "dtype", "f16");
    choose(&mut page, "layout", "bsl");
    let (rows, points) = with("f16", "bsl");
    assert!(rows > 0 && rows < cells / 4);
    assert_eq!(page.count(&seen("#cells tbody tr")), rows);
    assert_eq!(page.count(&seen("svg[data-plot=speedup] circle")), points);
    assert_eq!(page.count(&seen("figure.panel")), 4);
    assert_eq!(page.count(bars), rows);
    assert_eq!(page.text("document.querySelector('[data-stat=count]').textContent"), "12");
    let after = page.text("document.querySelector('svg[data-plot=speedup] .mid').getAttribute('y1')");
    assert_ne!(before, after, "medians are those of what is shown");
    choose(&mut page, "d", "17 and more");
    let wide = |c: &&study::Cell| {
        let chain = &c.case.problem.chain;
        chain.patterns().len() == 1 && chain.patterns()[0].d() > 16
    };
    let wide = plan.cells.0.iter().filter(wide).count() / 8;
    assert_eq!(page.count(&seen("#cells tbody tr")), wide);
    choose(&mut page, "part", "layers");
    assert_eq!(page.count(&seen("#cells tbody tr")), 0);
    page.value("document.getElementById('reset').click()");
    assert_eq!((page.count(&seen("#cells tbody tr")), page.count(bars)), (cells, cells));
    let again = page.text("document.querySelector('svg[data-plot=speedup] .mid').getAttribute('y1')");
    let numbers = [before, again].map(|text| text.parse::<f64>().expect("a number"));
    assert!((numbers[0] - numbers[1]).abs() < 0.1, "{numbers:?}: the script's medians are the page's");

    // The pointer on a point shows the plan and the figures.
    let place = page.value(
        "{ const p = document.querySelector('svg[data-plot=speedup] circle'); p.scrollIntoView({ block: 'center' }); \
         const r = p.getBoundingClientRect(); [r.x + r.width / 2, r.y + r.height / 2] }",
    );
    assert_eq!(page.text("String(document.getElementById('tip').hidden)"), "true");
    page.point(place[0].as_f64().expect("x"), place[1].as_f64().expect("y"));
    let tip = page.text("document.getElementById('tip').textContent");
    for word in
        ["(b + c)/(b·c) = ", "fused: ", "with tiles of 64", "GFLOP/s", "J, ", "rewriting memory", "</script> & <b>"]
    {
        assert!(tip.contains(word), "`{word}` is missing in {tip}");
    }
    page.point(2.0, 2.0);

    // The keyboard walks over the points of a figure.
    page.value("document.querySelector('svg[data-plot=energy]').focus()");
    page.press("ArrowRight");
    let first = page.text("document.getElementById('tip').textContent");
    page.press("ArrowRight");
    let second = page.text("document.getElementById('tip').textContent");
    assert!(first.contains("energy ") && second.contains("energy ") && first != second, "{first}\n{second}");
    page.press("Escape");
    assert_eq!(page.text("String(document.getElementById('tip').hidden)"), "true");

    // A click on a heading sorts by numbers.
    let sorted = page.value(
        "document.querySelectorAll('#cells th button')[9].click(); \
         [...document.querySelectorAll('#cells tbody tr')].map((row) => Number(row.cells[9].textContent))",
    );
    let sorted: Vec<f64> = sorted.as_array().expect("a list").iter().filter_map(|v| v.as_f64()).collect();
    assert!(sorted.len() == cells && sorted.is_sorted(), "{:?} …", &sorted[..9]);

    // Dark where that is preferred; the table is whole on paper.
    let background = "getComputedStyle(document.body).backgroundColor";
    let mut scheme = |value: &str| {
        let features = serde_json::json!([{"name": "prefers-color-scheme", "value": value}]);
        page.call("Emulation.setEmulatedMedia", serde_json::json!({"media": "screen", "features": features}));
        page.text(background)
    };
    assert_ne!(scheme("light"), scheme("dark"));
    page.call("Emulation.setEmulatedMedia", serde_json::json!({"media": "print"}));
    assert_eq!(page.text("getComputedStyle(document.querySelector('.wide')).overflowY"), "visible");

    let (complaints, requests) = page.complaints_and_requests();
    assert!(complaints.is_empty(), "the console says: {complaints:?}");
    assert!(requests.len() == 1 && requests[0].starts_with("file://"), "asked for {requests:?}");
    drop(page);

    // Without scripts everything but the filters is there.
    let mut page = Page::open(&program, &file, false);
    assert_eq!(page.count(&seen("svg[data-plot=speedup] circle")), single);
    assert_eq!(page.count(&seen("#cells tbody tr")), cells);
    assert_eq!(page.count(&seen(".filters")), 0);
}
