//! The choice among many definitions, at about the cost of one.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::spelling::{Resemblance, plain};
use super::{Matcher, PathPattern, RequestHead, Segment, without_query};
use crate::definition::Definition;

/// All matchers of a configuration, as a tree of path segments.
///
/// Routers from libraries choose the most specific pattern and refuse two that overlap; here the first that holds is
/// taken, and two may differ in host or headers alone. So the tree only finds those whose path holds.
#[derive(Debug, Default)]
pub struct MatcherTable {
    root: Node,
    /// The same for plain forms of paths.
    plain: Node,
    matchers: Vec<Matcher>,
}

/// What patterns say once the segments up to here are as they should be.
#[derive(Debug, Default)]
struct Node {
    literals: BTreeMap<String, Node>,
    parameter: Option<Box<Node>>,
    /// Matchers whose path ends here.
    ends: Vec<usize>,
    /// Matchers of all paths that begin like this.
    prefixes: Vec<usize>,
}

impl MatcherTable {
    /// The matchers of these definitions, in this order.
    pub fn new(definitions: &[Arc<Definition>]) -> Self {
        Self::of(definitions.iter().map(|definition| definition.matcher.clone()).collect())
    }

    pub(super) fn of(matchers: Vec<Matcher>) -> Self {
        let (mut root, mut plain) = (Node::default(), Node::default());
        for (index, matcher) in matchers.iter().enumerate() {
            root.add(matcher.path(), index);
            plain.add(matcher.plain().path(), index);
        }
        Self { root, plain, matchers }
    }

    /// Whether a request with this path (with its query) may begin a saga, or resemble one that does, as far as the path
    /// tells.
    pub fn could_match(&self, path: &str) -> bool {
        let mut found = false;
        let mut find = |_| {
            found = true;
            false
        };
        // A path may begin a saga as it is and not in its plain form: `/trips/..` is of a prefix.
        self.visit(path, &mut find);
        if !found {
            self.visit_plain(path, &mut |_| {
                found = true;
                false
            });
        }
        found
    }

    /// How a request that begins no saga resembles one that does: an application may take it for that. By the first
    /// definition that it resembles.
    pub fn resemblance(&self, request: &RequestHead) -> Option<Resemblance> {
        let mut candidates = Vec::new();
        self.visit_plain(request.path, &mut |index| {
            candidates.push(index);
            true
        });
        candidates.sort_unstable();
        candidates.into_iter().find_map(|index| self.matchers.get(index)?.resemblance(request))
    }

    /// As `visit`, of every spelling of a path.
    fn visit_plain(&self, path: &str, more: &mut dyn FnMut(usize) -> bool) {
        // What begins with anything else is no path of an application: `*`, or what a gate holds.
        if path.starts_with(['/', '\\'])
            && let Some(rest) = plain(path).strip_prefix('/')
        {
            self.plain.visit(Some(rest), more);
        }
    }

    /// The first definition whose match holds, with the parameters of the path.
    pub fn find(&self, request: &RequestHead) -> Option<(usize, Vec<(String, String)>)> {
        let mut candidates = Vec::new();
        self.visit(request.path, &mut |index| {
            candidates.push(index);
            true
        });
        candidates.sort_unstable();
        candidates
            .into_iter()
            .find_map(|index| self.matchers.get(index)?.matches(request).map(|parameters| (index, parameters)))
    }

    /// Hands over every matcher whose path holds, until `more` gives false.
    pub(super) fn visit(&self, path: &str, more: &mut dyn FnMut(usize) -> bool) {
        if let Some(rest) = without_query(path).strip_prefix('/') {
            self.root.visit(Some(rest), more);
        }
    }
}

fn literals(path: &str) -> impl Iterator<Item = Segment> {
    path.split('/').skip(1).map(|segment| Segment::Literal(segment.to_owned()))
}

impl Node {
    fn add(&mut self, path: &PathPattern, index: usize) {
        match path {
            PathPattern::Exact(path) => self.descend(literals(path)).ends.push(index),
            PathPattern::Prefix(prefix) if prefix == "/" => self.prefixes.push(index),
            PathPattern::Prefix(prefix) => self.descend(literals(prefix)).prefixes.push(index),
            PathPattern::Template(segments) => self.descend(segments.iter().cloned()).ends.push(index),
        }
    }

    fn descend(&mut self, segments: impl Iterator<Item = Segment>) -> &mut Node {
        segments.fold(self, |node, segment| match segment {
            Segment::Literal(text) => node.literals.entry(text).or_default(),
            Segment::Parameter(_) => node.parameter.get_or_insert_default(),
        })
    }

    /// `rest` is the path after the segments up to here, none at its end. As deep as the longest pattern, whatever the
    /// path. Gives whether there should be more.
    fn visit(&self, rest: Option<&str>, more: &mut dyn FnMut(usize) -> bool) -> bool {
        if !self.prefixes.iter().all(|index| more(*index)) {
            return false;
        }
        let Some(rest) = rest else {
            return self.ends.iter().all(|index| more(*index));
        };
        let (segment, rest) = match rest.split_once('/') {
            Some((segment, rest)) => (segment, Some(rest)),
            None => (rest, None),
        };
        if let Some(node) = self.literals.get(segment)
            && !node.visit(rest, more)
        {
            return false;
        }
        match &self.parameter {
            Some(node) if !segment.is_empty() => node.visit(rest, more),
            _ => true,
        }
    }
}
