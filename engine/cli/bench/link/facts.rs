//! What the header says of the devices, and of the ways of each pair.

use std::path::Path;

use peerbuf::ash::vk;
use peerbuf::device::MemoryType;
use peerbuf::{Device, Verdict, WaitRoute};

use super::super::run::{self, Access, AccessWay, WayState};
use super::machine;
use super::place::end;
use crate::lineup::Lineup;
use crate::report::DeviceFacts;

/// The devices, with what the library and the kernel say of them.
pub(super) fn devices(root: &Path, devices: &[Device]) -> Vec<run::Device> {
    let facts = DeviceFacts::of_all(devices);
    let device = |(facts, device): (&DeviceFacts, &Device)| {
        let mut known = machine::device(root, facts);
        let types = device.adapter().memory_types();
        let is_visible = |heap: usize| {
            let of_heap = |kind: &&MemoryType| kind.heap as usize == heap;
            let flag = vk::MemoryPropertyFlags::HOST_VISIBLE;
            types.iter().filter(of_heap).any(|kind| kind.flags.contains(flag))
        };
        for (index, heap) in known.heaps.iter_mut().enumerate() {
            heap.host_visible = Some(is_visible(index));
        }
        known.timestamp_bits = Some(device.timestamp_bits());
        known
    };
    facts.iter().zip(devices).map(device).collect()
}

/// The ways of each ordered pair, with their proofs.
pub(super) fn access(lineup: &Lineup) -> Vec<Access> {
    // All pairs at once, so that each device is opened once more, and not once for each pair.
    let _ = lineup.engine.prove_routes(&lineup.devices);
    lineup.pairs().map(|(from, to)| access_of(lineup, from, to)).collect()
}

fn access_of(lineup: &Lineup, from: usize, to: usize) -> Access {
    let (first, second) = (&lineup.devices[from], &lineup.devices[to]);
    let wait = lineup.engine.wait_route(first, second).ok();
    let (chosen, ways) = match lineup.engine.route(first, second) {
        Ok(verdict) => {
            let chosen = verdict.verified.then(|| verdict.route.name().to_owned());
            (chosen, ways_of(&verdict))
        }
        // One device cannot even run a compute pass.
        Err(error) => {
            let reason = Some(error.with_causes());
            let way = "any".to_owned();
            let state = WayState::Untried;
            (None, vec![AccessWay { way, state, reason, read_bytes_per_second: None }])
        }
    };
    Access {
        from: end(from),
        to: end(to),
        chosen,
        wait: wait.map(|route| WaitRoute::name(route).to_owned()),
        ways,
    }
}

fn ways_of(verdict: &Verdict) -> Vec<AccessWay> {
    let working = verdict.working.iter().map(|working| AccessWay {
        way: working.route.name().to_owned(),
        state: WayState::Proved,
        reason: None,
        // CAST: a rate needs no more digits.
        read_bytes_per_second: Some(working.bytes as f64 / working.read.as_secs_f64())
            .filter(|speed| speed.is_finite()),
    });
    let not = |state| {
        move |refusal: &peerbuf::Refusal| AccessWay {
            way: refusal.route.name().to_owned(),
            state,
            reason: Some(refusal.reason.to_string()),
            read_bytes_per_second: None,
        }
    };
    working
        .chain(verdict.refused.iter().map(not(WayState::Refused)))
        .chain(verdict.untried.iter().map(not(WayState::Untried)))
        .collect()
}
