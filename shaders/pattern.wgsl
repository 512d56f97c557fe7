// Shared by all passes: bindings, parameters, and the pattern.
//
// Each pass runs over `words` 32-bit words with `threads` invocations in strides, so that any size
// fits into any limit of workgroups. `first` is the index of word 0 within the whole buffer, because
// large buffers are bound piece by piece.

struct Parameters {
    seed: u32,
    first: u32,
    words: u32,
    threads: u32,
}

struct Findings {
    // verify: words that are wrong. checksum: the sum.
    count: atomic<u32>,
    // verify: index of the first wrong word.
    first_wrong: atomic<u32>,
}

var<immediate> parameters: Parameters;

@group(0) @binding(0) var<storage, read_write> subject: array<u32>;
@group(0) @binding(1) var<storage, read_write> destination: array<u32>;
@group(0) @binding(2) var<storage, read_write> findings: Findings;

// Every word depends on its position and on the seed, so that bytes that are shifted, stale, or of
// another run are wrong. The mixer is Chris Wellons' lowbias32 (hash-prospector).
fn mix32(value: u32) -> u32 {
    var x = value;
    x = (x ^ (x >> 16u)) * 0x7feb352du;
    x = (x ^ (x >> 15u)) * 0x846ca68bu;
    return x ^ (x >> 16u);
}

fn pattern(index: u32) -> u32 {
    return mix32(index * 0x9e3779b9u + parameters.seed);
}
