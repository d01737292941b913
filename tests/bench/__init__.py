"""Benchmarks of asv (airspeed velocity): one file a topic, one class a race or a curve of growth.

``make bench`` runs them all, ``make bench ONLY=ridge`` one file; ``sing_nb/speed.py`` reads what
they gave. In a class

- ``setup`` prepares, in a new process for each method and round and before every sample of it,
  and is not timed; where it raises NotImplementedError (a peer is not installed) asv skips;
- ``time_sing...`` and ``peakmem_sing...`` are ours, every other ``time_...`` and ``peakmem_...`` is
  a peer that ours is held against; methods of one class share `rounds` and `repeat`, because
  ratios are made round by round;
- ``title`` and ``work`` say what is raced and how large it is, ``labels`` what each method is;
- ``bounds`` is what peer / ours has to reach, by the peer's name or by (ours, peer); a fraction
  1 / x allows ours x times what the peer takes. ``limits`` is what ours alone may take (seconds
  or bytes);
- ``growth`` names the parameter whose exponent is fitted; such a class is no race.

Peers are imported inside the methods: asv stops if a file cannot be imported.
"""
