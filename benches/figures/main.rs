#![expect(clippy::print_stderr, reason = "a program prints why it failed")]
//! The project's figures, each with its baseline: `cargo bench --features testing --bench figures`.
//!
//! `-- --json` prints JSON; `-- --filter A,B` runs the figures whose id contains `A` or `B`; `-- --quick` takes few rounds and
//! leaves out what takes long. BENCHMARKS.md says how they
//! are measured and what they mean. A figure that misses its target is not a failure; wrong bytes and failed
//! calls are.

mod best_way;
mod by_hand;
mod copy;
mod drivers;
mod evict;
mod figure;
mod first_share;
mod first_share_by_hand;
mod frames;
mod hand;
mod handover;
mod heap;
mod held;
mod host;
mod image_hand;
mod image_layouts;
mod images;
mod imports;
mod latency;
mod link;
mod live;
mod live_million;
mod locks;
mod measure;
mod moves;
mod noise;
mod options;
mod policy;
mod queue_by_hand;
mod resolve;
// Plain data, which the program `peerbuf` compiles as well.
#[path = "../../engine/cli/bench/run/mod.rs"]
mod run;
mod saved;
mod scaling;
mod setup;
mod share;
mod submissions;
mod threads;
mod two_threads;
mod waste;
mod yardsticks;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::SystemTime;

use crate::figure::{Figure, Table};
use crate::noise::Noise;
use crate::options::Options;
use crate::setup::Setup;

type Outcome<T> = Result<T, Box<dyn Error>>;

#[global_allocator]
static HEAP: heap::Counted = heap::Counted;

/// The ids of the figures of one measurement, and the function that measures them.
struct Group {
    ids: &'static [&'static str],
    measure: fn(&Setup) -> Outcome<Vec<Figure>>,
}

static GROUPS: &[Group] = &[
    Group { ids: &["share_one_more"], measure: share::one_more },
    Group { ids: &["create_share_destroy", "create_share_use_destroy"], measure: share::life },
    Group {
        ids: &["share_one_more_part", "create_share_destroy_part"],
        measure: yardsticks::of_a_submission,
    },
    Group { ids: &["resolve_mapping_part", "pin_unpin_part"], measure: yardsticks::of_a_lock },
    Group { ids: &["copy_4k_part"], measure: yardsticks::of_a_memcpy },
    Group {
        ids: &["live_100k_fds", "live_100k_bytes", "live_100k_mapped_bytes"],
        measure: live::live,
    },
    Group {
        ids: &["live_1m_bytes", "live_1m_tight_bytes", "live_1m_handle_bytes"],
        measure: live_million::million,
    },
    Group { ids: &["op_scaling"], measure: scaling::scaling },
    Group {
        ids: &["view_million", "view_million_miss", "create_full_million"],
        measure: scaling::million,
    },
    Group {
        ids: &[
            "threads_create",
            "threads_create_own",
            "threads_share",
            "threads_share_own",
            "threads_host",
        ],
        measure: two_threads::over_one,
    },
    Group { ids: &["held_full", "held_after_drop"], measure: held::held },
    Group { ids: &["resolve_mapping"], measure: resolve::mapping },
    Group { ids: &["pin_unpin", "pin_unpin_quota"], measure: resolve::pin },
    Group { ids: &["copy_64m_vs_ash"], measure: copy::vs_ash },
    Group { ids: &["copy_64m_vs_memcpy"], measure: copy::vs_memcpy },
    Group { ids: &["copy_best_way"], measure: best_way::copy },
    Group { ids: &["link_best_way"], measure: link::best_way },
    Group { ids: &["link_overhead"], measure: link::overhead },
    Group { ids: &["link_both"], measure: link::both },
    Group { ids: &["link_quick_seconds"], measure: link::quick },
    Group { ids: &["host_write_4k"], measure: host::write },
    Group { ids: &["host_touch_16"], measure: host::touch },
    Group { ids: &["create_use_16m"], measure: host::create_use },
    Group { ids: &["migrate_4096_small"], measure: moves::small },
    Group { ids: &["copy_4k_latency"], measure: latency::copy },
    Group { ids: &["handover_64m"], measure: handover::handover },
    Group {
        ids: &[
            "submit_one",
            "submit_one_polled",
            "submit_one_commands",
            "submit_one_commands_polled",
        ],
        measure: submissions::one,
    },
    Group { ids: &["submit_64_queued", "submit_64_queued_record"], measure: submissions::queued },
    Group { ids: &["submit_128_of_4096", "submit_128_of_4096_singly"], measure: submissions::many },
    Group {
        ids: &["lock_8", "lock_32", "lock_8_threads", "lock_32_threads"],
        measure: locks::many,
    },
    Group { ids: &["move_1024"], measure: moves::anew },
    Group { ids: &["move_1024_cached", "move_1024_cached_each"], measure: moves::known },
    Group { ids: &["batch_64", "batch_64_device"], measure: moves::batch },
    Group { ids: &["evict_64m"], measure: evict::by_hand },
    Group { ids: &["evict_bandwidth", "restore_bandwidth"], measure: evict::bandwidth },
    Group { ids: &["clean_evict_bytes"], measure: evict::clean },
    Group { ids: &["slab_waste", "slab_waste_held", "slab_waste_used"], measure: waste::slabs },
    Group { ids: &["imports_resident"], measure: imports::resident },
    Group { ids: &["attach_first"], measure: drivers::attach_first },
    Group { ids: &["host_read_4k_busy"], measure: drivers::host_read_busy },
    Group { ids: &["control_probe_bound"], measure: drivers::probe_bound },
    Group { ids: &["image_handover_4k"], measure: images::handover },
    Group { ids: &["image_share_one_more"], measure: images::one_more },
    Group { ids: &["image_first_share"], measure: images::first_share },
    Group { ids: &["image_move_4k"], measure: images::moved },
    Group { ids: &["image_relayout_4k"], measure: image_layouts::relayout },
    Group { ids: &["image_evict_4k"], measure: images::evict },
    Group { ids: &["negotiate_cached"], measure: image_layouts::cached },
    Group { ids: &["negotiate_64"], measure: image_layouts::many },
    Group { ids: &["image_bytes", "image_shared_bytes"], measure: image_layouts::bytes },
    Group { ids: &["frame_p99"], measure: frames::p99 },
    Group { ids: &["frame_in_place"], measure: frames::in_place },
    Group { ids: &["first_share", "first_share_known"], measure: first_share::cold },
    Group {
        ids: &[
            "policy_worst",
            "policy_geomean",
            "policy_vs_lru",
            "policy_unseen_geomean",
            "policy_unseen_worst_regret",
        ],
        measure: policy::bytes,
    },
    Group {
        ids: &["policy_cost", "policy_cost_worst", "policy_bytes", "lru_bytes", "pick_scaling"],
        measure: policy::cost,
    },
];

/// What `--quick` leaves out: figures of a million buffers, of bounds that are waited for, and of the policies' cost.
const SLOW: [&str; 8] = [
    "live_1m_bytes",
    "op_scaling",
    "view_million",
    "control_probe_bound",
    "policy_worst",
    "policy_cost",
    "frame_p99",
    "frame_in_place",
];

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let done = match first_share::Child::parse(&arguments) {
        Some(child) => child.run(),
        None => Options::parse(arguments.into_iter()).and_then(|options| run(&options)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("figures: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Outcome<()> {
    let wanted = |group: &&Group| group.ids.iter().any(|id| options.wants(id));
    let is_left_out = |group: &&Group| options.quick && SLOW.contains(&group.ids[0]);
    let (left_out, groups): (Vec<_>, Vec<_>) = GROUPS.iter().filter(wanted).partition(is_left_out);
    if groups.is_empty() {
        let known: Vec<_> = GROUPS.iter().flat_map(|group| group.ids.iter().copied()).collect();
        return Err(format!("no figure matches; there are {}", known.join(", ")).into());
    }
    if options.quick {
        measure::be_quick();
    }
    let started = SystemTime::now();
    let setup = Setup::new()?;
    let noise = Noise::measure(&setup)?;
    let mut out = io::stdout().lock();
    if !options.json {
        write_header(&mut out, &setup, &noise)?;
    }
    let mut figures = Vec::new();
    for group in groups {
        figures
            .extend((group.measure)(&setup)?.into_iter().filter(|figure| options.wants(figure.id)));
    }
    if options.json {
        let run = saved::run(&setup, options.quick, started, &noise, &figures)?;
        writeln!(out, "{}", serde_json::to_string_pretty(&run)?)?;
    } else {
        write!(out, "{}", Table(&figures))?;
        let left_out: Vec<_> = left_out.iter().flat_map(|group| group.ids).copied().collect();
        if !left_out.is_empty() {
            writeln!(out, "\nLeft out by --quick: {}.", left_out.join(", "))?;
        }
    }
    Ok(())
}

fn write_header(out: &mut impl Write, setup: &Setup, noise: &Noise) -> io::Result<()> {
    for (name, value) in setup.machine() {
        writeln!(out, "{name:>12}  {value}")?;
    }
    for line in &noise.0 {
        writeln!(out, "{:>12}  {line}", "A/A noise")?;
    }
    writeln!(out)
}
