// Sums every word, mixed with its position. Addition commutes, so the order of threads does not matter.
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    var sum = 0u;
    for (var word = id.x; word < parameters.words; word += parameters.threads) {
        sum += mix32(subject[word] + (parameters.first + word) * 0x9e3779b9u);
    }
    atomicAdd(&findings.count, sum);
}
