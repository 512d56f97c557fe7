// Spins `limit` rounds; with 0 it never ends. Compiled by: naga spin.wgsl spin.spv
struct Control { limit: u32, done: u32 }
@group(0) @binding(0) var<storage, read_write> control: Control;

@compute @workgroup_size(1)
fn main() {
    var round = 0u;
    var value = 1u;
    loop {
        value = value * 1664525u + 1013904223u;
        round = round + 1u;
        if control.limit != 0u && round >= control.limit { break; }
    }
    control.done = value;
}
