// Draws the picture, and into its third channel the number of the frame plus the place of the texel.

@group(0) @binding(0) var<storage, read> numbers: array<u32>;
@group(0) @binding(1) var picture: texture_2d<f32>;

@vertex
fn corner(@builtin(vertex_index) index: u32) -> @builtin(position) vec4<f32> {
    // One triangle over all.
    return vec4(f32(index & 1u) * 4.0 - 1.0, f32(index >> 1u) * 4.0 - 1.0, 0.0, 1.0);
}

@fragment
fn texel(@builtin(position) at: vec4<f32>) -> @location(0) vec4<f32> {
    let place = vec2<u32>(at.xy);
    let number = numbers[(place.x + place.y * 251u) % arrayLength(&numbers)];
    let shown = (number + place.x + 3u * place.y) % 256u;
    let there = textureLoad(picture, place, 0);
    return vec4(there.rg, f32(shown) / 255.0, 1.0);
}
