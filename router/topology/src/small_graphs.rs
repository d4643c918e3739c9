//! All small networks, for tests that leave none out.

/// Every connected network of the routers `0..peers`, as its links. There are 1, 1, 4, 38 and 728 of 1 to 5 routers;
/// more than 6 take long.
pub fn connected(peers: usize) -> impl Iterator<Item = Vec<(usize, usize)>> {
    let pairs: Vec<_> = (0..peers).flat_map(|a| (a + 1..peers).map(move |b| (a, b))).collect();
    (0u32..1 << pairs.len()).filter_map(move |mask| {
        let links: Vec<_> = (0..pairs.len()).filter(|at| mask >> at & 1 == 1).map(|at| pairs[at]).collect();
        is_connected(peers, &links).then_some(links)
    })
}

fn is_connected(peers: usize, links: &[(usize, usize)]) -> bool {
    let mut reached = vec![false; peers];
    let mut frontier = vec![0];
    while let Some(at) = frontier.pop() {
        if !std::mem::replace(&mut reached[at], true) {
            let ends = links.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]);
            frontier.extend(ends.filter(|(from, _)| *from == at).map(|(_, to)| to));
        }
    }
    reached.into_iter().all(|reached| reached)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of labelled connected graphs (OEIS A001187).
    #[test]
    fn leaves_no_network_out() {
        assert_eq!([1, 2, 3, 4, 5].map(|peers| connected(peers).count()), [1, 1, 4, 38, 728]);
    }
}
