//! Inference and training.

use super::super::recorder::{KIB, MIB, Maker, Recorder};

pub(super) const MAKERS: &[Maker] = &[
    ("inference: conversations that return", 0.7, conversations),
    ("inference: a camera's pipeline", 0.8, pipeline),
    ("inference: speech to speech", 0.75, speech),
    ("inference: adapters", 0.6, adapters),
    ("training: one forward, one backward", 0.85, one_forward_one_backward),
    ("training: rollouts and replay", 0.5, replay_memory),
    ("training: epochs and validation", 0.7, epochs),
];

/// Conversations whose caches grow and are used again after a pause, and a system prompt that all begin with;
/// layers of the model are used in turn for each token (Sheng et al., "FlexGen", 2023, on such offloading).
fn conversations(r: &mut Recorder) {
    let layers = r.buffers(20, 96 * MIB);
    let prompt = r.buffers(8, 8 * MIB);
    let mut sessions: Vec<Vec<usize>> = vec![Vec::new(); 40];
    while !r.full() {
        let session = r.popular(sessions.len(), 0.8);
        if sessions[session].len() > 30 || r.chance(0.05) {
            sessions[session].clear();
        }
        let more = r.buffers(1 + session % 3, 8 * MIB);
        sessions[session].extend(more);
        for _ in 0..4 {
            for layer in layers.clone() {
                r.touch(layer);
                if layer % 10 == 0 {
                    r.all(prompt.clone());
                    r.all(sessions[session].iter().copied());
                }
            }
        }
    }
}

/// A detector for each frame, a tracker for each second one, a classifier for what was found, a segmentation for
/// each thirtieth. Frames come from a ring.
fn pipeline(r: &mut Recorder) {
    let ring = r.buffers(12, 6 * MIB);
    let detector = r.mixed(40, 64 * KIB, 16 * MIB);
    let tracker = r.mixed(15, 64 * KIB, 8 * MIB);
    let classifiers: Vec<_> = (0..6).map(|_| r.mixed(25, 64 * KIB, 24 * MIB)).collect();
    let segmentation = r.mixed(50, 64 * KIB, 64 * MIB);
    let mut frame = 0;
    while !r.full() {
        r.touch(ring.start + frame % 12);
        r.all(detector.clone());
        if frame % 2 == 0 {
            r.all(tracker.clone());
        }
        if r.chance(0.3) {
            let kind = r.popular(classifiers.len(), 1.2);
            r.all(classifiers[kind].clone());
        }
        if frame % 30 == 0 {
            r.all(segmentation.clone());
        }
        frame += 1;
    }
}

/// Turns of talk: a small recogniser over pieces of sound, a large model for each word of the answer, a vocoder over
/// pieces of it, with states of a few pages.
fn speech(r: &mut Recorder) {
    let recogniser = r.mixed(40, 256 * KIB, 16 * MIB);
    let layers = r.buffers(14, 256 * MIB);
    let vocoder = r.mixed(40, 64 * KIB, 24 * MIB);
    let states = r.buffers(60, 16 * KIB);
    while !r.full() {
        for _ in 0..3 + r.below(5) {
            r.once(64 * KIB);
            r.all(recogniser.clone());
        }
        let cache = r.buffers(6, 32 * MIB);
        for word in 0..10 + r.below(30) {
            for layer in layers.clone() {
                r.touch(layer);
                r.touch(states.start + (layer - layers.start) * 4);
            }
            r.all(cache.clone().take(1 + word / 6));
            if word % 5 == 4 {
                r.all(vocoder.clone());
                r.touch(states.start + 1);
            }
        }
    }
}

/// One base model for all, whose layers are used in turn, and a small adapter for each layer by the request's
/// customer (Sheng et al., "S-LoRA", 2023). Who is busy changes.
fn adapters(r: &mut Recorder) {
    const LAYERS: usize = 16;
    let base = r.buffers(LAYERS, 64 * MIB);
    let adapters: Vec<_> = (0..150)
        .map(|_| {
            let bytes = r.size(MIB, 16 * MIB);
            r.buffers(LAYERS, bytes)
        })
        .collect();
    let mut rank: Vec<usize> = (0..adapters.len()).collect();
    while !r.full() {
        if r.chance(0.02) {
            let (one, two) = (r.below(20), r.below(rank.len()));
            rank.swap(one, two);
        }
        let batch: Vec<_> = (0..4).map(|_| rank[r.popular(rank.len(), 1.1)]).collect();
        for _ in 0..3 {
            for layer in 0..LAYERS {
                r.touch(base.start + layer);
                r.all(batch.iter().map(|&n| adapters[n].start + layer));
            }
        }
    }
}

/// One stage of a pipeline: some forward passes ahead, then one forward and one backward in turn, whose stashed
/// activations are used first in, first out; then the optimizer (Narayanan et al., "PipeDream", 2019).
fn one_forward_one_backward(r: &mut Recorder) {
    const LAYERS: usize = 12;
    const AHEAD: usize = 4;
    const BATCHES: usize = 16;
    let weights = r.buffers(LAYERS, 64 * MIB);
    let stash: Vec<_> = (0..=AHEAD).map(|_| r.buffers(LAYERS, 24 * MIB)).collect();
    let gradients = r.buffers(LAYERS, 64 * MIB);
    let states = r.buffers(LAYERS, 128 * MIB);
    while !r.full() {
        for batch in 0..BATCHES + AHEAD {
            if batch < BATCHES {
                let stash = &stash[batch % stash.len()];
                (0..LAYERS).for_each(|n| r.all([weights.start + n, stash.start + n]));
            }
            if let Some(batch) = batch.checked_sub(AHEAD) {
                let stash = &stash[batch % stash.len()];
                for n in (0..LAYERS).rev() {
                    r.all([stash.start + n, weights.start + n, gradients.start + n]);
                }
            }
        }
        (0..LAYERS).for_each(|n| r.all([gradients.start + n, states.start + n, weights.start + n]));
    }
}

/// Rollouts use the small policy network and write new pieces of experience; updates draw pieces at random from all
/// of the last ones (Mnih et al., "Human-level control through deep reinforcement learning", 2015), newer ones
/// oftener, and use the network, its target and its optimizer.
fn replay_memory(r: &mut Recorder) {
    let network = r.mixed(24, 16 * KIB, 4 * MIB);
    let target = r.mixed(24, 16 * KIB, 4 * MIB);
    let states = r.mixed(48, 16 * KIB, 4 * MIB);
    let mut memory: Vec<usize> = r.buffers(300, 8 * MIB).collect();
    let mut next = 0;
    while !r.full() {
        for _ in 0..8 {
            (0..4).for_each(|_| r.all(network.clone()));
            let piece = r.buffer(8 * MIB);
            r.touch(piece);
            let place = next % memory.len();
            memory[place] = piece;
            next += 1;
        }
        for _ in 0..8 {
            for _ in 0..12 {
                let back = r.popular(memory.len(), 0.5);
                let place = (next + memory.len() - 1 - back) % memory.len();
                r.touch(memory[place]);
            }
            r.all(network.clone());
            r.all(target.clone());
            r.all(network.clone().rev());
            r.all(states.clone());
        }
    }
}

/// Epochs over shards of a data set in an order of their own, with all weights for each shard; after each epoch the
/// validation set in a fixed order, and a checkpoint that is written once.
fn epochs(r: &mut Recorder) {
    let weights = r.mixed(30, 256 * KIB, 32 * MIB);
    let states = r.mixed(30, 256 * KIB, 32 * MIB);
    let mut shards: Vec<usize> = r.buffers(120, 24 * MIB).collect();
    let validation = r.buffers(40, 24 * MIB);
    while !r.full() {
        r.shuffle(&mut shards);
        for &shard in &shards {
            r.touch(shard);
            r.all(weights.clone());
            r.all(weights.clone().rev());
            r.all(states.clone());
        }
        for shard in validation.clone() {
            r.touch(shard);
            r.all(weights.clone());
        }
        (0..10).for_each(|_| r.once(64 * MIB));
    }
}
