//! The engine against real files, processes and peers: one program, so that it links once.

mod state;
