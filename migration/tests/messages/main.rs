//! Messages between nodes: they survive the way there and back, they are what node.proto says, other versions are
//! read as far as they can be, and no bytes make a decoder panic or ask for much memory.

mod described;
mod hostile;
mod kept;
mod laws;
mod random;
mod samples;
mod versions;
