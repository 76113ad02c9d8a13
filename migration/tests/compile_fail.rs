//! What must not compile: making a `SafeConfig` or an `Evidence` without the gate or the proof, and skipping a
//! state of the source.

#[test]
fn rule_05_proof_and_gate_have_no_way_around() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
