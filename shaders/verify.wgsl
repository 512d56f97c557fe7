// Counts the words that differ from the pattern, and finds the first one.
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    var wrong = 0u;
    var first = 0xffffffffu;
    for (var word = id.x; word < parameters.words; word += parameters.threads) {
        let index = parameters.first + word;
        if subject[word] != pattern(index) {
            wrong += 1u;
            first = min(first, index);
        }
    }
    if wrong > 0u {
        atomicAdd(&findings.count, wrong);
        atomicMin(&findings.first_wrong, first);
    }
}
