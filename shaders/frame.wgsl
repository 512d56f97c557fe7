// Frames of `peerbuf demo --images`: one device draws a frame, another one compares each texel as it samples it.

struct Parameters {
    seed: u32,
    // Texels in a row.
    width: u32,
}

struct Findings {
    count: atomic<u32>,
    // Row by row.
    first_wrong: atomic<u32>,
}

var<immediate> parameters: Parameters;

@group(0) @binding(0) var image: texture_2d<f32>;
@group(0) @binding(1) var<storage, read_write> findings: Findings;

// The mixer of pattern.wgsl: each texel depends on its position and on the seed.
fn mix32(value: u32) -> u32 {
    var x = value;
    x = (x ^ (x >> 16u)) * 0x7feb352du;
    x = (x ^ (x >> 15u)) * 0x846ca68bu;
    return x ^ (x >> 16u);
}

// Red in the lowest byte, then green, blue and alpha.
fn texel(at: vec2<u32>) -> u32 {
    return mix32((at.y * parameters.width + at.x) * 0x9e3779b9u + parameters.seed);
}

// A triangle over the whole image.
@vertex
fn corner(@builtin(vertex_index) index: u32) -> @builtin(position) vec4<f32> {
    let x = f32((index & 1u) * 4u) - 1.0;
    let y = f32((index >> 1u) * 4u) - 1.0;
    return vec4<f32>(x, y, 0.0, 1.0);
}

@fragment
fn draw(@builtin(position) at: vec4<f32>) -> @location(0) vec4<f32> {
    return unpack4x8unorm(texel(vec2<u32>(at.xy)));
}

@compute @workgroup_size(8, 8)
fn check(@builtin(global_invocation_id) id: vec3<u32>) {
    let size = textureDimensions(image);
    if any(id.xy >= size) {
        return;
    }
    if pack4x8unorm(textureLoad(image, id.xy, 0)) != texel(id.xy) {
        atomicAdd(&findings.count, 1u);
        atomicMin(&findings.first_wrong, id.y * size.x + id.x);
    }
}
