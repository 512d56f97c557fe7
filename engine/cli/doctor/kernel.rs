//! The kernel's version and the options that sharing needs.

use std::process::{Command, Stdio};

use super::report::{Finding, KernelFacts};
use super::root;

const AREA: &str = "kernel";

/// Options that make sharing possible, or cheaper.
const OPTIONS: [&str; 4] =
    ["CONFIG_UDMABUF", "CONFIG_DMABUF_HEAPS", "CONFIG_DMABUF_HEAPS_SYSTEM", SYNC_FILE];
const SYNC_FILE: &str = "CONFIG_SYNC_FILE";

/// Reads them.
pub(super) fn read() -> KernelFacts {
    let release = root::text("/proc/sys/kernel/osrelease").unwrap_or_default();
    let boot = format!("/boot/config-{release}");
    let modules = format!("/lib/modules/{release}/config");
    let text =
        compressed("/proc/config.gz").map(|text| ("/proc/config.gz".to_owned(), text)).or_else(
            || [boot, modules].into_iter().find_map(|file| Some((file.clone(), root::text(file)?))),
        );
    let Some((file, text)) = text else {
        return KernelFacts { release, ..KernelFacts::default() };
    };
    let value = |option: &str| {
        let set = text.lines().find_map(|line| line.strip_prefix(option)?.strip_prefix('='));
        (option.to_owned(), set.unwrap_or("n").to_owned())
    };
    let options = OPTIONS.into_iter().map(value).collect();
    KernelFacts { release, config: Some(file), options }
}

/// The text of a file that gzip has compressed, if the program gzip is there.
fn compressed(path: &str) -> Option<String> {
    let file = root::system(path);
    if !file.exists() {
        return None;
    }
    let mut gzip = Command::new("gzip");
    gzip.arg("-dc").arg(file).stdin(Stdio::null()).stderr(Stdio::null());
    let output = gzip.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

impl KernelFacts {
    /// Whether it is known that an option is not set.
    pub(super) fn lacks(&self, option: &str) -> bool {
        self.options.iter().any(|(name, value)| name == option && value == "n")
    }
}

/// What they mean. What is lost without the options of device nodes is said of the nodes.
pub(super) fn judge(facts: &KernelFacts) -> Vec<Finding> {
    let release = &facts.release;
    let Some(file) = &facts.config else {
        return vec![Finding::ok(AREA, format!("Linux {release}; its options cannot be read"))];
    };
    let set: Vec<_> =
        facts.options.iter().map(|(option, value)| format!("{option}={value}")).collect();
    let mut findings =
        vec![Finding::ok(AREA, format!("Linux {release}: {} ({file})", set.join(", ")))];
    if facts.lacks(SYNC_FILE) {
        findings.push(Finding::note(
            AREA,
            "no sync files: devices of two drivers wait for each other by a host thread",
            format!("a kernel with {SYNC_FILE}"),
        ));
    }
    findings
}
