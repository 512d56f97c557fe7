// Lit cubes over a floor. Vertices are computed: there is nothing to bind.

struct Frame {
    seconds: f32,
    aspect: f32,
    unused: vec2<f32>,
}
var<immediate> frame: Frame;

struct Vertex {
    @builtin(position) position: vec4<f32>,
    @location(0) colour: vec3<f32>,
    @location(1) normal: vec3<f32>,
}

// A corner of a cube: bit 0 is x, bit 1 y, bit 2 z.
fn corner(face: u32, at: u32) -> vec3<f32> {
    var quad = array<vec2<f32>, 6>(
        vec2(-1.0, -1.0), vec2(1.0, -1.0), vec2(1.0, 1.0),
        vec2(-1.0, -1.0), vec2(1.0, 1.0), vec2(-1.0, 1.0),
    );
    let uv = quad[at];
    let side = select(-1.0, 1.0, (face & 1u) == 1u);
    switch face / 2u {
        case 0u: { return vec3(side, uv.x, uv.y); }
        case 1u: { return vec3(uv.x, side, uv.y); }
        default: { return vec3(uv.x, uv.y, side); }
    }
}

fn normal_of(face: u32) -> vec3<f32> {
    let side = select(-1.0, 1.0, (face & 1u) == 1u);
    switch face / 2u {
        case 0u: { return vec3(side, 0.0, 0.0); }
        case 1u: { return vec3(0.0, side, 0.0); }
        default: { return vec3(0.0, 0.0, side); }
    }
}

fn turned(v: vec3<f32>, angle: f32) -> vec3<f32> {
    let s = sin(angle);
    let c = cos(angle);
    return vec3(c * v.x + s * v.z, v.y, c * v.z - s * v.x);
}

@vertex
fn vertex(@builtin(vertex_index) index: u32, @builtin(instance_index) instance: u32) -> Vertex {
    let face = index / 6u;
    var at = corner(face, index % 6u);
    var normal = normal_of(face);
    var colour = vec3(0.55, 0.55, 0.50);
    if instance == 25u {
        // The floor.
        at = at * vec3(9.0, 0.1, 9.0) - vec3(0.0, 1.6, 0.0);
    } else {
        let column = f32(instance % 5u) - 2.0;
        let row = f32(instance / 5u) - 2.0;
        let phase = frame.seconds * 2.0 + column * 0.9 + row * 0.7;
        at = turned(at * 0.45, phase * 0.5);
        normal = turned(normal, phase * 0.5);
        at += vec3(column * 1.7, sin(phase) * 0.7, row * 1.7);
        colour = 0.5 + 0.45 * cos(vec3(0.0, 2.1, 4.2) + column * 0.8 + row * 0.5);
    }
    // A camera that goes round, looks down, and is ten units away.
    let seen = turned(at, frame.seconds * 0.3);
    let pitch = 0.55;
    let y = cos(pitch) * seen.y - sin(pitch) * seen.z;
    let z = sin(pitch) * seen.y + cos(pitch) * seen.z;
    let distance = 10.0 - z;
    let near = 1.0;
    let far = 30.0;
    let depth = far * (distance - near) / (far - near);
    var out: Vertex;
    out.position = vec4(seen.x * 1.7 / frame.aspect, y * 1.7, depth, distance);
    out.colour = colour;
    out.normal = normal;
    return out;
}

@fragment
fn fragment(in: Vertex) -> @location(0) vec4<f32> {
    let light = normalize(vec3(0.5, 0.9, 0.35));
    let lit = 0.25 + 0.75 * max(dot(normalize(in.normal), light), 0.0);
    return vec4(in.colour * lit, 1.0);
}
