//! The file of a trace: where it is, what happens on errors, and what is read from it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::observe::trace::tracer::is_secure;

#[test]
fn a_file_that_was_cut_off_is_an_array_without_its_end() {
    let whole = traced(one_of_each);
    let text = str::from_utf8(&whole).expect("UTF-8");
    for (cut, _) in text.match_indices('\n') {
        // `chrome://tracing` does this to an array that does not end.
        let cut = text[..cut].trim_end_matches(['\n', ',']);
        let mended = if cut.ends_with(']') { cut.to_owned() } else { format!("{cut}]") };
        let events: Vec<Value> = serde_json::from_str(&mended).expect(cut);
        assert!(events.len() < text.lines().count());
    }
}

/// Keeps the bytes of each write separate.
#[derive(Clone, Default)]
struct Chunks(Arc<Mutex<Vec<Vec<u8>>>>);

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no writer panics").push(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn memory_is_bounded_and_the_file_always_ends_with_a_whole_line() {
    let chunks = Chunks::default();
    let tracer = Tracer::to_writer(chunks.clone());
    (0..10_000).for_each(|buffer| tracer.access(an_access(buffer)));
    let written = || chunks.0.lock().expect("no writer panics").clone();
    let before = written();
    drop(tracer);
    assert!(before.len() >= 10, "{} chunks", before.len());
    for chunk in &before {
        assert!(chunk.len() < 80 << 10, "{} bytes at once", chunk.len());
        assert_eq!(chunk.last(), Some(&b'}'));
    }
    assert_eq!(events(&written().concat()).len(), 10_000 + 1 + 2 * 4);
}

#[test]
fn accesses_are_read_back_as_they_were() {
    let mut accesses: Vec<_> = (0..1000).map(an_access).collect();
    accesses.push(AccessEvent {
        buffer: u64::MAX,
        bytes: u64::MAX,
        device: DeviceId(u16::MAX),
        ..accesses[1]
    });
    accesses.push(AccessEvent { domain: DomainId::Vram(DeviceId(u16::MAX)), ..accesses[2] });
    let file = traced(|tracer| {
        one_of_each(tracer);
        accesses.iter().for_each(|&access| tracer.access(access));
    });
    let all = [&[an_access(1)], &*accesses].concat();
    assert_eq!(read(&*file).expect("a trace"), all);
    // Cut off at any byte, the accesses before the cut are read.
    let end = file.len() - 2000;
    for cut in (2..4000).chain(end..file.len()) {
        let accesses = read(&file[..cut]).expect("a trace that was cut off");
        assert_eq!(accesses, all[..accesses.len()]);
        let whole_lines = file[..cut].iter().filter(|&&byte| byte == b'\n').count();
        let lines = file[..cut].split(|&byte| byte == b'\n').take(whole_lines);
        let there = lines.filter(|line| line.windows(14).any(|part| part == br#""cat":"access""#));
        assert!(accesses.len() >= there.count(), "cut at {cut}");
    }
}

#[test]
fn text_that_is_not_a_trace_is_refused() {
    assert!(read(&b""[..]).expect("nothing").is_empty());
    let access =
        r#"{"ph":"i","cat":"access","args":{"buffer":1,"bytes":2,"device":0,"domain":"hell"}}"#;
    for (line, wrong) in [
        (1, "{\"traceEvents\":[]}".to_owned()),
        (2, "[\n{\"ph\":\"i\"\n{\"ph\":\"i\"}\n]\n".to_owned()),
        (2, format!("[\n{access}\n]\n")),
    ] {
        let error = read(wrong.as_bytes()).expect_err(&wrong);
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(error.to_string(), format!("line {line} is not part of a trace"));
    }
}

/// Counts warnings.
struct Warnings(Arc<AtomicUsize>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

fn warnings(work: impl FnOnce()) -> usize {
    let count = Arc::new(AtomicUsize::new(0));
    tracing::subscriber::with_default(Warnings(Arc::clone(&count)), work);
    count.load(Ordering::Relaxed)
}

/// Accepts `left` bytes, and then fails.
struct Full {
    left: usize,
    refused: Arc<AtomicUsize>,
}

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.left.min(bytes.len()) {
            0 => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Err(io::ErrorKind::StorageFull.into())
            }
            taken => {
                self.left -= taken;
                Ok(taken)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_error_ends_the_trace_and_nothing_else() {
    for left in [0, 1, 100_000] {
        let refused = Arc::new(AtomicUsize::new(0));
        let tracer = Tracer::to_writer(Full { left, refused: Arc::clone(&refused) });
        let warned = warnings(|| {
            let open = tracer.begin(a_move(1, None));
            let callback = tracer.callback(open, 1, DeviceId(0));
            for _ in 0..1000 {
                one_of_each(&tracer);
            }
            drop(callback);
            tracer.end(open, Outcome::Moved);
            drop(tracer);
        });
        assert_eq!((warned, refused.load(Ordering::Relaxed)), (1, 1), "{left} bytes");
    }
}

#[test]
fn finishing_reports_the_error_that_ended_the_trace() {
    for left in [0, 1, 100_000] {
        let refused = Arc::new(AtomicUsize::new(0));
        let tracer = Tracer::to_writer(Full { left, refused: Arc::clone(&refused) });
        for _ in 0..1000 {
            one_of_each(&tracer);
        }
        for _ in 0..2 {
            let error = tracer.finish().expect_err("the disk is full");
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{left} bytes");
        }
        assert_eq!(refused.load(Ordering::Relaxed), 1, "{left} bytes: nothing is written after it");
    }
    let full = Tracer::to_file("/dev/full".as_ref()).expect("it can be opened");
    let error = full.finish().expect_err("the disk is full");
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::NOSPC.raw_os_error()));
}

#[test]
fn what_happens_after_the_finish_is_not_in_the_trace() {
    let bytes = Bytes::default();
    let tracer = Tracer::to_writer(bytes.clone());
    one_of_each(&tracer);
    tracer.finish().expect("memory takes it");
    let complete = bytes.0.lock().expect("no writer panics").clone();
    one_of_each(&tracer);
    tracer.finish().expect("again");
    drop(tracer);
    let after = bytes.0.lock().expect("no writer panics").clone();
    assert_eq!(after, complete);
    check(&events(&complete));
}

#[test]
fn a_full_device_and_a_closed_pipe_end_the_trace() {
    let full = Tracer::to_file("/dev/full".as_ref()).expect("it can be opened");
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    for tracer in [full, Tracer::to_writer(writer)] {
        assert!(tracer.is_on());
        assert_eq!(warnings(|| drop(tracer)), 1);
    }
}

#[test]
fn a_tracer_that_is_off_records_nothing() {
    let tracer = Tracer::off();
    assert!(!tracer.is_on());
    let warned = warnings(|| one_of_each(&tracer));
    assert_eq!((warned, tracer.begin(a_move(1, None))), (0, MoveId::NONE));
    assert_eq!(size_of::<Tracer>(), 8);
}

/// A folder that is removed when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("peerbuf-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("it was made here");
    }
}

#[test]
fn engines_that_trace_at_a_time_have_files_of_their_own() {
    let folder = Folder::new("trace");
    let [path, second, third] = ["a.json", "a.2.json", "a.3.json"].map(|name| folder.0.join(name));
    std::fs::write(
        &path,
        "the trace of an earlier run, which is much longer than the one written now",
    )
    .expect("a file");
    let tracers = [1, 2, 3].map(|buffer| {
        let tracer = Tracer::to_file(&path).expect("a file that can be written");
        tracer.access(an_access(buffer));
        tracer
    });
    drop(tracers);
    for (path, buffer) in [(&path, 1), (&second, 2), (&third, 3)] {
        let file = std::fs::read(path).expect("a trace");
        assert_eq!(read(&*file).expect("a trace"), [an_access(buffer)]);
    }
    drop(Tracer::to_file(&path).expect("free again"));
    assert!(read(&*std::fs::read(&path).expect("a trace")).expect("a trace").is_empty());
    let nowhere = folder.0.join("none").join("a.json");
    assert_eq!(
        Tracer::to_file(&nowhere).expect_err("no such folder").kind(),
        io::ErrorKind::NotFound
    );
}

/// Run directly, this uses the environment of the test run. The next test runs it with the name of a file.
#[test]
fn the_environment_says_whether() {
    let name = std::env::var_os("PEERBUF_TRACE").filter(|name| !name.is_empty());
    let tracer = Tracer::from_env();
    assert!(!tracer.is_on() || name.is_some());
    tracer.access(an_access(4));
}

#[test]
fn the_environment_says_where() {
    let folder = Folder::new("environment");
    let run = |path: &std::path::Path| {
        let mut child = std::process::Command::new(std::env::current_exe().expect("this program"));
        let name = "observe::trace::tests::file::the_environment_says_whether";
        let child = child.args(["--exact", name]).env("PEERBUF_TRACE", path);
        let output = child.output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
    };
    let path = folder.0.join("a b.json");
    run(&path);
    let file = std::fs::read(&path).expect("a trace");
    assert_eq!(read(&*file).expect("a trace"), [an_access(4)]);
    // A symbolic link is not followed: the file behind it stays as it is.
    let link = folder.0.join("link.json");
    std::os::unix::fs::symlink(&path, &link).expect("a link");
    run(&link);
    assert_eq!(std::fs::read(&path).expect("a trace"), file);
    // An empty name, and a file that cannot be written, turn tracing off.
    run("".as_ref());
    run(&folder.0.join("none").join("a.json"));
}

#[test]
fn the_environment_of_a_program_with_more_rights_is_ignored() {
    let vector = |pairs: &[(usize, usize)]| -> Vec<u8> {
        pairs.iter().flat_map(|(key, value)| [*key, *value]).flat_map(usize::to_ne_bytes).collect()
    };
    assert!(!is_secure(&vector(&[(6, 4096), (23, 0), (0, 0)])));
    assert!(is_secure(&vector(&[(6, 4096), (23, 1), (0, 0)])));
    assert!(is_secure(&vector(&[(6, 23), (0, 0)])) && is_secure(&[]), "unknown");
}
