//! Suggestions for mistyped names.

/// Returns the known name that is most similar, if one is similar enough to be meant.
pub(crate) fn similar<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let closeness = |other: &str| strsim::jaro(name, other);
    let best = known.into_iter().max_by(|a, b| closeness(a).total_cmp(&closeness(b)));
    // The threshold of clap for options is similar.
    best.filter(|other| closeness(other) > 0.8)
}
