//! The Merkle tree over the entries of a manifest.
//!
//! The shape is that of RFC 9162, section 2.1 (a list of n leaves is cut at the largest power of two below n), so that
//! no leaf is ever doubled and a proof exists for every leaf of every count. The hash is BLAKE3, with one byte before
//! what is hashed that keeps leaves (0), nodes (1) and roots (2) apart; a root covers the number of leaves too.

/// A hash in the tree.
pub type Hash = [u8; 32];

const LEAF: &[u8] = &[0];
const NODE: &[u8] = &[1];
const ROOT: &[u8] = &[2];

/// In one piece: a hasher that is fed by pieces costs more than such short texts.
fn hash(text: &[u8]) -> Hash {
    *blake3::hash(text).as_bytes()
}

/// The hash of a leaf.
pub fn leaf(bytes: &[u8]) -> Hash {
    hash(&[LEAF, bytes].concat())
}

fn node(left: &Hash, right: &Hash) -> Hash {
    let mut text = [0; 65];
    text[..1].copy_from_slice(NODE);
    text[1..33].copy_from_slice(left);
    text[33..].copy_from_slice(right);
    hash(&text)
}

/// The largest power of two below `count`, which is at least 2.
fn split(count: usize) -> usize {
    (count / 2 + count % 2).next_power_of_two()
}

fn tree(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => hash(b""),
        [leaf] => *leaf,
        leaves => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node(&tree(left), &tree(right))
        }
    }
}

fn seal(count: u64, top: &Hash) -> Hash {
    hash(&[ROOT, &count.to_le_bytes(), top].concat())
}

/// The root over some leaves; there may be none.
pub fn root(leaves: &[Hash]) -> Hash {
    seal(leaves.len() as u64, &tree(leaves))
}

/// The hashes beside the way from a leaf to the top, from below; `None`: there is no such leaf.
pub fn path(leaves: &[Hash], at: usize) -> Option<Vec<Hash>> {
    if at >= leaves.len() {
        return None;
    }
    let mut path = Vec::new();
    let (mut leaves, mut at) = (leaves, at);
    while leaves.len() > 1 {
        let (left, right) = leaves.split_at(split(leaves.len()));
        if at < left.len() {
            path.push(tree(right));
            leaves = left;
        } else {
            path.push(tree(left));
            at -= left.len();
            leaves = right;
        }
    }
    path.reverse();
    Some(path)
}

/// The root that follows from a leaf, its place, the number of leaves and the path; `None` if the path has not the
/// length that it must have.
pub fn root_from(leaf: &Hash, at: u64, count: u64, path: &[Hash]) -> Option<Hash> {
    if at >= count {
        return None;
    }
    // RFC 9162, section 2.1.3.2.
    let (mut at, mut last) = (at, count - 1);
    let mut top = *leaf;
    for beside in path {
        if last == 0 {
            return None;
        }
        if at % 2 == 1 || at == last {
            top = node(beside, &top);
            while at.is_multiple_of(2) && at != 0 {
                at /= 2;
                last /= 2;
            }
        } else {
            top = node(&top, beside);
        }
        at /= 2;
        last /= 2;
    }
    (last == 0).then(|| seal(count, &top))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic in a test is its report")]
mod tests {
    use super::*;

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|at| leaf(&at.to_le_bytes())).collect()
    }

    #[test]
    fn every_leaf_of_every_count_has_a_proof_that_holds_for_it_alone() {
        let all = leaves(1000);
        for count in (1..=70).chain([127, 128, 129, 255, 256, 257, 511, 513, 999, 1000]) {
            let leaves = &all[..count];
            let root = root(leaves);
            for at in 0..count {
                let path = path(leaves, at).unwrap();
                let proves = |leaf, at: usize, count: usize, path: &[Hash]| {
                    root_from(leaf, at as u64, count as u64, path) == Some(root)
                };
                assert!(proves(&leaves[at], at, count, &path), "leaf {at} of {count}");
                let other = (at + 1) % 1000;
                assert!(!proves(&all[other], at, count, &path), "another leaf");
                assert!(!proves(&leaves[at], at, count + 1, &path), "another count");
                assert!(!proves(&leaves[at], (at + 1) % (count + 1), count, &path), "another place");
                let mut longer = path.clone();
                longer.push([0; 32]);
                assert!(!proves(&leaves[at], at, count, &longer), "a longer path");
                if let Some((_, shorter)) = path.split_last() {
                    assert!(!proves(&leaves[at], at, count, shorter), "a shorter path");
                    let mut changed = path.clone();
                    changed[at % path.len()][3] ^= 1;
                    assert!(!proves(&leaves[at], at, count, &changed), "a changed path");
                }
            }
            assert_eq!(path(leaves, count), None);
        }
    }

    #[test]
    fn roots_differ_by_leaves_order_and_count() {
        assert_ne!(root(&leaves(0)), root(&leaves(1)));
        assert_ne!(root(&leaves(3)), root(&leaves(4)));
        // The classic mistake: a doubled last leaf gives the same root.
        let mut doubled = leaves(3);
        doubled.push(doubled[2]);
        assert_ne!(root(&leaves(3)), root(&doubled));
        let mut swapped = leaves(5);
        swapped.swap(1, 2);
        assert_ne!(root(&leaves(5)), root(&swapped));
        // A node is no leaf.
        let two = leaves(2);
        assert_ne!(tree(&two), leaf(&[two[0], two[1]].concat()));
    }

    #[test]
    fn all_counts_up_to_a_thousand() {
        let all = leaves(1000);
        for count in 1..=1000 {
            let root = root(&all[..count]);
            for at in [0, count / 2, count - 1] {
                let path = path(&all[..count], at).unwrap();
                assert_eq!(root_from(&all[at], at as u64, count as u64, &path), Some(root));
            }
        }
    }
}
