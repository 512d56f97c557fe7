//! Inference and training.

use super::super::recorder::{KIB, MIB, Maker, Recorder};

pub(super) const MAKERS: &[Maker] = &[
    ("inference: tokens, batched as they come", 0.85, decode),
    ("inference: experts", 0.6, experts),
    ("inference: pictures by diffusion", 0.7, diffusion),
    ("inference: many models", 0.5, zoo),
    ("training: forward and backward", 0.9, forward_backward),
    ("training: recomputed segments", 0.65, checkpoints),
    ("training: embeddings", 0.6, embeddings),
];

/// Each step uses the weights of all layers and, after each layer, the cache pages of the requests in the batch
/// (Kwon et al., "Efficient memory management for large language model serving with PagedAttention", 2023);
/// requests join and leave between steps (Yu et al., "Orca", 2022). Pages of an ended request are not used again.
fn decode(r: &mut Recorder) {
    let layers = r.buffers(16, 192 * MIB);
    let embedding = r.buffer(256 * MIB);
    let mut batch: Vec<(Vec<usize>, usize)> = Vec::new();
    while !r.full() {
        while batch.len() < 6 {
            let prompt = 1 + r.below(10);
            let pages = r.buffers(prompt, 16 * MIB).collect();
            batch.push((pages, 8 + r.below(60)));
        }
        r.touch(embedding);
        for layer in layers.clone() {
            r.touch(layer);
            if layer % 4 == 0 {
                batch.iter().for_each(|(pages, _)| r.all(pages.iter().copied()));
            }
        }
        for (pages, left) in &mut batch {
            *left -= 1;
            if *left % 8 == 0 {
                pages.push(r.buffer(16 * MIB));
            }
        }
        batch.retain(|(_, left)| *left > 0);
    }
}

/// A mixture of experts: of each layer two of many experts, often those of the token before (Eliseev, Mazur, "Fast
/// inference of mixture-of-experts language models with offloading", 2023).
fn experts(r: &mut Recorder) {
    let layers: Vec<_> = (0..24).map(|_| (r.buffer(24 * MIB), r.buffers(16, 48 * MIB))).collect();
    let mut last: Vec<[usize; 2]> = vec![[0, 1]; layers.len()];
    while !r.full() {
        for (number, (attention, experts)) in layers.iter().enumerate() {
            r.touch(*attention);
            for chosen in &mut last[number] {
                if !r.chance(0.35) {
                    *chosen = (r.popular(16, 0.6) + number) % 16;
                }
                r.touch(experts.start + *chosen);
            }
        }
    }
}

/// A text encoder once, a denoiser's blocks for each of thirty steps, a decoder once (Rombach et al.,
/// "High-resolution image synthesis with latent diffusion models", 2022); some requests refine at the end.
fn diffusion(r: &mut Recorder) {
    let encoder = r.buffers(24, 20 * MIB);
    let denoiser = r.mixed(60, 4 * MIB, 96 * MIB);
    let refiner = r.mixed(50, 4 * MIB, 96 * MIB);
    let decoder = r.mixed(20, MIB, 32 * MIB);
    let scratch = r.mixed(10, 64 * KIB, 64 * MIB);
    while !r.full() {
        r.all(encoder.clone());
        let refined = r.chance(0.3);
        for (blocks, steps) in [(&denoiser, 30), (&refiner, if refined { 10 } else { 0 })] {
            for _ in 0..steps {
                for block in blocks.clone() {
                    r.touch(block);
                    r.touch(scratch.start + block % scratch.len());
                }
            }
        }
        r.all(decoder.clone());
        r.once(12 * MIB);
    }
}

/// A server of many models of different sizes; a request uses all layers of one, in order. Popularity is heavy in
/// the tail (Gujarati et al., "Serving DNNs like Clockwork", 2020) and drifts.
fn zoo(r: &mut Recorder) {
    let models: Vec<_> = (0..60)
        .map(|_| {
            let most = r.size(2 * MIB, 128 * MIB);
            let layers = 10 + r.below(40);
            r.mixed(layers, 16 * KIB, most)
        })
        .collect();
    while !r.full() {
        // CAST: a small number.
        let drift = (r.progress() * 12.0) as usize;
        let model = (r.popular(models.len(), 0.9) + drift) % models.len();
        r.all(models[model].clone());
        r.once(256 * KIB);
    }
}

/// Forward through all layers, which keeps activations; backward through them in reverse, which uses those; then
/// the optimizer's two states of each layer (Kingma, Ba, "Adam", 2015; Rhu et al., "vDNN", 2016).
fn forward_backward(r: &mut Recorder) {
    let weights = r.mixed(48, 4 * MIB, 64 * MIB);
    let activations = r.mixed(48, MIB, 128 * MIB);
    let states = r.mixed(96, 4 * MIB, 64 * MIB);
    while !r.full() {
        r.once(16 * MIB);
        for n in 0..48 {
            r.all([weights.start + n, activations.start + n]);
        }
        for n in (0..48).rev() {
            r.all([activations.start + n, weights.start + n]);
        }
        for n in 0..48 {
            r.all([weights.start + n, states.start + 2 * n, states.start + 2 * n + 1]);
        }
    }
}

/// Only every sixth activation is kept; the backward pass computes a segment's others again (Chen et al., "Training
/// deep nets with sublinear memory cost", 2016). Four small batches, then one step of the optimizer.
fn checkpoints(r: &mut Recorder) {
    const LAYERS: usize = 60;
    let weights = r.buffers(LAYERS, 32 * MIB);
    let kept = r.buffers(LAYERS / 6, 24 * MIB);
    let scratch = r.buffers(6, 96 * MIB);
    let states = r.buffers(LAYERS, 64 * MIB);
    while !r.full() {
        for _ in 0..4 {
            for n in 0..LAYERS {
                r.all([weights.start + n, scratch.start + n % 6]);
                if n % 6 == 0 {
                    r.touch(kept.start + n / 6);
                }
            }
            for segment in (0..LAYERS / 6).rev() {
                r.touch(kept.start + segment);
                let layers = segment * 6..segment * 6 + 6;
                for n in layers.clone().chain(layers.rev()) {
                    r.all([weights.start + n, scratch.start + n % 6]);
                }
            }
            r.once(8 * MIB);
        }
        r.all((0..LAYERS).flat_map(|n| [weights.start + n, states.start + n]));
    }
}

/// A recommendation model: shards of embedding tables by popularity, and dense layers (Naumov et al., "Deep
/// learning recommendation model for personalization and recommendation systems", 2019).
fn embeddings(r: &mut Recorder) {
    let shards: Vec<_> = (0..12)
        .map(|_| {
            let bytes = r.size(256 * KIB, 16 * MIB);
            r.buffers(400, bytes)
        })
        .collect();
    let dense = r.mixed(12, 64 * KIB, 16 * MIB);
    while !r.full() {
        for table in &shards {
            for _ in 0..6 {
                let shard = table.start + r.popular(table.len(), 0.85);
                r.touch(shard);
            }
        }
        r.all(dense.clone());
        r.all(dense.clone().rev());
        r.once(4 * MIB);
    }
}
