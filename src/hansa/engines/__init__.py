"""A party's rows on disk, or spread over workers of an engine that exists: nobody outside the party can tell."""
