//! Prints the environment of a process that runs under a simulation, as commands of a shell:
//! `eval "$(cargo run -q -p driver-sim --example environment -- radv)"`.
//!
//! With `--below-validation` before the simulation the validation layer is enabled above the layer.
#![expect(clippy::print_stdout, reason = "what this program is for")]

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words: Vec<_> = std::env::args().skip(1).collect();
    let below = words.first().is_some_and(|word| word == "--below-validation");
    if below {
        words.remove(0);
    }
    let mut simulation = driver_sim::Simulation::new(&words.join(" "))?;
    if below {
        simulation = simulation.below_validation();
    }
    for (name, value) in simulation.environment() {
        // In single quotes a shell leaves everything as it is but a single quote.
        println!("export {name}='{}'", value.to_string_lossy().replace('\'', r"'\''"));
    }
    Ok(())
}
