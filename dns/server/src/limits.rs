//! Every limit of the server, and what happens when it is met. Protocol constants first.

use std::time::Duration;

/// Largest UDP answer to a client that announces no size (RFC 1035, section 4.2.1). A larger answer is truncated, and
/// the client asks again over TCP.
pub const UDP_LEN_PLAIN: usize = 512;

/// Largest UDP answer, whatever a client announces, and the size that this server announces: it fits into one packet
/// nearly everywhere. A larger answer is truncated, and the client asks again over TCP.
pub const UDP_LEN_MAX: u16 = 1_232;

/// Largest answer over TCP, bounded by its length field (RFC 1035, section 4.2.2).
pub const TCP_LEN_MAX: usize = 65_535;

// What clients may do.

/// Longest query, in bytes. A longer datagram is dropped, and a connection that announces a longer one is closed. A
/// name, a question and many EDNS options need a few hundred.
pub const QUERY_LEN_MAX: usize = 4_096;

/// Queries of one client in a second, over UDP and TCP. More are dropped in silence, and a connection is closed.
pub const QUERIES_PER_SECOND: u32 = 5_000;

/// Equal questions of one client over UDP in a second. More are answered with an empty, truncated answer, which is no
/// longer than the question, so that a forged source gains nothing and an honest client asks again over TCP.
pub const SAME_QUESTION_PER_SECOND: u32 = 200;

/// Denials of names to one client over UDP in a second. More are answered as above.
pub const NO_NAME_PER_SECOND: u32 = 100;

/// Clients whose rates are counted one by one. When they are that many and none is idle, all others share one count.
pub const CLIENTS_COUNTED_MAX: usize = 4_096;

/// Datagrams that are handled before other tasks get their turn.
pub const DATAGRAMS_AT_ONCE: usize = 64;

/// Bytes of datagrams that may wait in a socket, as asked from the kernel, which grants less to who may not exceed its
/// default. More are dropped by it.
pub const RECEIVE_BUFFER_LEN: usize = 4 * 1024 * 1024;

/// TCP connections in all. One more is closed at once.
pub const CONNECTIONS_MAX: usize = 128;

/// TCP connections of one client. One more is closed at once.
pub const CONNECTIONS_EACH_MAX: usize = 8;

/// A connection that has not completed a query or taken an answer for this long is closed.
pub const CONNECTION_IDLE: Duration = Duration::from_secs(10);

/// An answer that a client has not taken from its connection by then closes it.
pub const CONNECTION_WRITE_TIME: Duration = Duration::from_secs(5);

/// Unanswered queries of one connection. Further ones wait in the socket, and TCP slows the client.
pub const PIPELINED_MAX: usize = 64;

/// Bytes of queries that are read from one connection. Then it is answered and closed.
pub const CONNECTION_BYTES_MAX: usize = 1024 * 1024;

/// After a failed accept, such as for want of file descriptors, the next is tried this much later.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

// What is asked of upstream servers.

/// Queries that wait for upstream servers, in all. One more is answered with SERVFAIL at once.
pub const FORWARDS_MAX: usize = 1_024;

/// Queries of one client that wait for upstream servers. One more is answered with SERVFAIL at once.
pub const FORWARDS_EACH_MAX: usize = 64;

/// Upstream servers that are used; further ones are ignored, as by others that read resolv.conf (MAXNS).
pub const UPSTREAMS_MAX: usize = 3;

/// How often a query is sent before the client is told SERVFAIL, to each server in turn.
pub const TRIES_MAX: usize = 3;

/// How long one server is waited for.
pub const TRY_TIME: Duration = Duration::from_millis(1_150);

/// How long all tries take together at most; the client hears SERVFAIL then.
pub const FORWARD_TIME_MAX: Duration = Duration::from_millis(3_600);

/// Datagrams to one query that do not belong to it, forged ones perhaps. After as many the server is asked over TCP.
pub const MISMATCHES_MAX: usize = 16;

/// A server that answered when the one before it did not is asked first for this long.
pub const PREFERENCE_KEPT: Duration = Duration::from_secs(30);

/// Each upstream server is tested this often for whether its questions come back to this server.
pub const LOOP_TEST_EVERY: Duration = Duration::from_secs(300);

/// The file that names upstream servers is looked at this often.
pub const RESOLV_CONF_POLL: Duration = Duration::from_secs(2);

/// Longest such file, in bytes. The rest is ignored.
pub const RESOLV_CONF_LEN_MAX: u64 = 64 * 1024;

// What is kept of their answers.

/// Answers in the cache. The oldest makes room.
pub const CACHE_ENTRIES_MAX: usize = 8_192;

/// Bytes in the cache. The oldest answers make room.
pub const CACHE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// An answer is kept no longer than this, whatever its time to live.
pub const CACHE_TTL_MAX: Duration = Duration::from_secs(300);

/// A denial is kept no longer than this (RFC 2308, section 5, sets no lower bound).
pub const CACHE_NEGATIVE_TTL_MAX: Duration = Duration::from_secs(30);
