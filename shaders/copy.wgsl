// Copies word by word, on the compute units instead of a copy engine.
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    for (var word = id.x; word < parameters.words; word += parameters.threads) {
        destination[word] = subject[word];
    }
}
