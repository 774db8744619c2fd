"""A party's rows spread over workers of an engine that exists: nobody outside the party can tell."""
