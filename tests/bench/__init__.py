"""Benchmarks of asv (airspeed velocity): one file a topic, one class a race or a curve of growth.

``make bench`` runs them all, ``make bench ONLY=ridge`` one file; asv prints a line per benchmark
with its seconds or bytes, ours beside its peers. In a class

- ``setup`` prepares, in a new process for each method and round and before every sample of it,
  and is not timed; where it raises NotImplementedError (a peer is not installed) asv skips;
- ``time_sing...`` and ``peakmem_sing...`` are ours, every other ``time_...`` and ``peakmem_...`` is
  a peer that ours is held against; methods of one class share `rounds` and `repeat`, so that they
  are measured in turn;
- ``title`` and ``work`` say what is raced and how large it is, ``labels`` what each method is;
- ``bounds`` says, for who reads the table, what peer / ours should reach, by the peer's name or by
  (ours, peer); a fraction 1 / x allows ours x times what the peer takes. ``limits`` is what ours
  alone may take (seconds or bytes);
- ``growth`` names the parameter along which it grows; such a class is no race.

Peers are imported inside the methods: asv stops if a file cannot be imported.
"""
