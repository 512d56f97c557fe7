// Counts the texels of an image that differ from those of another one as a shader reads them, and finds the first one.
// Each invocation compares one texel. The bits are compared, since a value that is no number equals none.

struct Findings {
    count: atomic<u32>,
    // Row by row.
    first_wrong: atomic<u32>,
}

@group(0) @binding(0) var subject: texture_2d<f32>;
@group(0) @binding(1) var reference: texture_2d<f32>;
@group(0) @binding(2) var<storage, read_write> findings: Findings;

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let size = textureDimensions(subject);
    if any(id.xy >= size) {
        return;
    }
    let found = bitcast<vec4<u32>>(textureLoad(subject, id.xy, 0));
    let right = bitcast<vec4<u32>>(textureLoad(reference, id.xy, 0));
    if any(found != right) {
        atomicAdd(&findings.count, 1u);
        atomicMin(&findings.first_wrong, id.y * size.x + id.x);
    }
}
