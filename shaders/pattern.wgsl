// Text that precedes every shader: bindings, parameters, and the pattern.
//
// A shader processes `words` 32-bit words with `threads` invocations in strides, so that any size fits into any
// limit on workgroups. Large buffers are bound piece by piece: `first` is the index of the piece's first word
// in the whole buffer.
//
// After a change to one of these files, `WRITE_SHADERS=1 cargo test --test shaders` compiles them to `.spv`.

struct Parameters {
    seed: u32,
    first: u32,
    words: u32,
    threads: u32,
}

struct Findings {
    // verify: number of wrong words. checksum: the sum.
    count: atomic<u32>,
    // verify: index of the first wrong word.
    first_wrong: atomic<u32>,
}

var<immediate> parameters: Parameters;

@group(0) @binding(0) var<storage, read_write> subject: array<u32>;
@group(0) @binding(1) var<storage, read_write> destination: array<u32>;
@group(0) @binding(2) var<storage, read_write> findings: Findings;

// Every word depends on its position and on the seed, so that shifted bytes, stale bytes, and bytes of another
// run are wrong. The mixer is Chris Wellons' lowbias32 (hash-prospector).
fn mix32(value: u32) -> u32 {
    var x = value;
    x = (x ^ (x >> 16u)) * 0x7feb352du;
    x = (x ^ (x >> 15u)) * 0x846ca68bu;
    return x ^ (x >> 16u);
}

fn pattern(index: u32) -> u32 {
    return mix32(index * 0x9e3779b9u + parameters.seed);
}
