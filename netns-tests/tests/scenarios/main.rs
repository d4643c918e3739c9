//! What a network of real routers must do, each router in a network namespace of its own.
//!
//! One module a subject. All are one program, since linking takes longer than compiling. They know `mesh` as its users
//! do: by its commands, its JSON documents, its files, and the frames that it sends. They need root and the binary
//! (`cargo build -p mesh -p mesh-lab`).
//!
//! Times are measured and printed as lines that begin with `measured:`. What is asserted is several times what a quiet
//! machine needs, since these tests share theirs with others.
#![forbid(unsafe_code)]

mod addresses;
mod attach;
mod bad_input;
mod bridging;
mod churn;
mod cleanup;
mod config;
mod crowd;
mod docker;
mod doctor;
mod documents;
mod expose;
mod faults;
mod floods;
mod groups;
mod heartbeat;
mod hostile;
mod insider;
mod kernels;
mod keys;
mod lifecycle;
mod machines;
mod many_flows;
mod mesh;
mod metrics;
mod moving;
mod mtu;
mod names;
mod names_answers;
mod names_faults;
mod names_timing;
mod nat;
mod never_in_clear;
mod odd_frames;
mod operations;
mod ovs;
mod package;
mod page;
mod partitions;
mod pcap;
mod peering;
mod places;
mod player;
mod podman;
mod port_security;
mod resolved;
mod restart;
mod rogues;
mod secrets;
mod shapes;
mod speed;
mod study;
mod support;
mod transfer;
mod trust;
mod uplink;
mod versions;
mod vxlan;
mod walls;
mod wires;
