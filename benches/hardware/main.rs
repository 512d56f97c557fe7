#![expect(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    reason = "Vulkan by hand: a SAFETY comment argues for each group of calls"
)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that prints what it measures"
)]
//! What a machine with a GPU shows in ten minutes: `make hardware`.
//!
//! Eleven steps, each in a child process with a bound, in the order of their value. A step that hangs or crashes ends
//! its own process. Every line that a step found is in the JSON file, which is written again after each step:
//! `benches/hardware/DATE-DEVICE.json`, or the file that `-- --out FILE` names. `-- --only NAME` runs one step.
//!
//! On software devices long work is cut short, and memory is not exhausted: it is the machine's own.

mod exhaust;
mod gpu;
mod hang;
mod imports;
mod shared;

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The bounds of all steps together are within ten minutes.
const STEPS: &[Step] = &[
    Step { name: "devices", title: "devices and routes", bound: 75, run: devices },
    Step {
        name: "validated",
        title: "a probe under validation",
        bound: 60,
        run: shared::validated,
    },
    Step { name: "imports", title: "exports and imports by hand", bound: 45, run: imports::fds },
    Step {
        name: "host_pointers",
        title: "imports by address",
        bound: 60,
        run: imports::host_pointers,
    },
    Step {
        name: "host_access",
        title: "host access to imported dma-bufs",
        bound: 30,
        run: shared::host_access,
    },
    Step {
        name: "drag",
        title: "the exporter's speed before and after an import",
        bound: 45,
        run: imports::drag,
    },
    Step {
        name: "host_round_trip",
        title: "host, device, host; moves",
        bound: 45,
        run: shared::round_trip,
    },
    Step {
        name: "attach_while_busy",
        title: "attach behind a long job",
        bound: 60,
        run: hang::attach_while_busy,
    },
    Step { name: "infinite", title: "a shader that never ends", bound: 60, run: hang::infinite },
    Step { name: "exhaust", title: "memory until it fails", bound: 60, run: exhaust::run },
    Step { name: "sync_fd", title: "sync files between devices", bound: 20, run: imports::sync_fd },
];

pub(crate) type Outcome = Result<(), Box<dyn Error>>;

struct Step {
    name: &'static str,
    title: &'static str,
    /// In seconds.
    bound: u64,
    run: fn() -> Outcome,
}

/// One line of a step's result, on standard output and at once: the process may not live long.
pub(crate) fn found(line: &Value) {
    println!("{MARK}{line}");
    let _ = std::io::stdout().flush();
}

const MARK: &str = "\u{1}found:";

/// A `VkResult` as text.
pub(crate) fn code<T>(result: &gpu::Result<T>) -> String {
    match result {
        Ok(_) => "ok".into(),
        Err(code) => format!("{code:?}"),
    }
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|word| word == name)?;
        arguments.get(at + 1).cloned()
    };
    if let Some(name) = value("--step") {
        let step = STEPS.iter().find(|step| step.name == name);
        return match step.map(|step| (step.run)()) {
            Some(Ok(())) => ExitCode::SUCCESS,
            Some(Err(error)) => {
                found(&json!({ "error": error.to_string() }));
                ExitCode::FAILURE
            }
            None => ExitCode::from(2),
        };
    }
    match all(value("--out"), value("--only").as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hardware: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the steps, and writes the file after each.
fn all(out: Option<String>, only: Option<&str>) -> Outcome {
    let begin = Instant::now();
    let file = out.unwrap_or_else(default_file);
    let mut results = Vec::new();
    for step in STEPS.iter().filter(|step| only.is_none_or(|only| only == step.name)) {
        eprintln!("{:>4} s  {}: {}", begin.elapsed().as_secs(), step.name, step.title);
        let result = run(step);
        eprintln!(
            "        {} findings, {}",
            result["found"].as_array().map_or(0, Vec::len),
            result["end"]
        );
        results.push(result);
        let report = json!({
            "schema": 1,
            "peerbuf": env!("CARGO_PKG_VERSION"),
            "date": date(),
            "kernel": std::fs::read_to_string("/proc/version").unwrap_or_default().trim(),
            "seconds": begin.elapsed().as_secs_f64(),
            "steps": results,
        });
        std::fs::write(&file, format!("{report:#}\n"))?;
    }
    println!("{file}");
    Ok(())
}

/// Runs one step in a child process.
fn run(step: &Step) -> Value {
    let begin = Instant::now();
    let bound = Duration::from_secs(step.bound);
    let mut command = Command::new("/proc/self/exe");
    command.args(["--step", step.name]).stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(Stdio::piped());
    if step.name == "validated" {
        // Of layers since 1.3.280, and of those before.
        command
            .env("VK_LAYER_VALIDATE_SYNC", "1")
            .env("VK_LAYER_ENABLES", "VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT");
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return json!({ "step": step.name, "end": error.to_string() }),
    };
    let (sender, lines) = mpsc::channel();
    let outputs: [Option<Box<dyn std::io::Read + Send>>; 2] = [
        child.stdout.take().map(|out| Box::new(out) as _),
        child.stderr.take().map(|err| Box::new(err) as _),
    ];
    for output in outputs.into_iter().flatten() {
        let sender = sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
    }
    drop(sender);
    let mut status = None;
    while status.is_none() && begin.elapsed() < bound {
        status = child.try_wait().unwrap_or(None);
        std::thread::sleep(Duration::from_millis(10));
    }
    let end = match status {
        Some(status) => status.to_string(),
        None => {
            // A child that waits in the kernel may outlive this.
            let _ = child.kill();
            std::thread::sleep(Duration::from_millis(500));
            let gone = matches!(child.try_wait(), Ok(Some(_)));
            format!("killed after {} s{}", step.bound, if gone { "" } else { ", and still there" })
        }
    };
    let (mut found, mut printed) = (Vec::new(), Vec::new());
    while let Ok(line) = lines.recv_timeout(Duration::from_millis(200)) {
        match line.split_once(MARK).map(|(_, text)| serde_json::from_str::<Value>(text)) {
            Some(Ok(value)) => found.push(value),
            _ if printed.len() < 200 => printed.push(line),
            _ => {}
        }
    }
    json!({
        "step": step.name,
        "title": step.title,
        "bound_seconds": step.bound,
        "seconds": begin.elapsed().as_secs_f64(),
        "end": end,
        "found": found,
        "printed": printed,
    })
}

/// Step 1: what the program says of the machine.
fn devices() -> Outcome {
    for command in ["doctor", "devices"] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_peerbuf")).args([command, "--json"]).output()?;
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        let errors = String::from_utf8_lossy(&output.stderr);
        found(
            &json!({ "command": command, "status": output.status.code(), "report": report, "errors": errors }),
        );
    }
    Ok(())
}

/// The date as `2026-11-30`.
fn date() -> String {
    let output = Command::new("date").args(["-u", "+%F"]).output();
    output
        .map_or_else(|_| "undated".into(), |out| String::from_utf8_lossy(&out.stdout).trim().into())
}

/// A file named after the day and the first device that is no processor.
fn default_file() -> String {
    let adapters = peerbuf::Adapter::list().unwrap_or_default();
    let is_gpu = |adapter: &&peerbuf::Adapter| adapter.kind() != peerbuf::device::AdapterKind::Cpu;
    let device = adapters.iter().find(is_gpu).or_else(|| adapters.first());
    let name = device.map_or("none", |adapter| adapter.name()).to_lowercase();
    let words =
        name.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let name = words.take(4).collect::<Vec<_>>().join("-");
    format!("{}/benches/hardware/{}-{name}.json", env!("CARGO_MANIFEST_DIR"), date())
}
