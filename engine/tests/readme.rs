//! README.md shows the program of `examples/quickstart.rs`, and what it says of the command line is so.

/// Without white space and trailing commas, which formatting moves.
fn tokens(text: &str) -> String {
    let dense: String = text
        .chars()
        .filter(|letter| !letter.is_whitespace())
        .collect();
    dense.replace(",)", ")")
}

#[test]
fn the_program_is_the_quickstart_example() {
    let readme = include_str!("../../README.md");
    let example = include_str!("../examples/quickstart.rs");
    let shown = readme
        .split("```rust\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("a program");
    let code = example
        .split_once("\n\n")
        .expect("a header and a program")
        .1;
    assert_eq!(tokens(shown), tokens(code));
}

#[test]
fn the_first_screen_holds_the_program_and_its_output() {
    let readme = include_str!("../../README.md");
    let screen: Vec<&str> = readme.lines().take(50).collect();
    for part in [
        "`cargo add watershed`",
        "fn main()",
        "read on b: Some",
        "**It is**",
        "**It is not**",
    ] {
        assert!(
            screen
                .iter()
                .any(|line| line.starts_with(part) || line.trim_start().starts_with(part)),
            "{part}"
        );
    }
}
