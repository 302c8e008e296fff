"""The doorbell: dramatiq on Redis or Valkey, and the machinery that turns a ring into settled work.

dramatiq is used here and nowhere else. A message says only that there is work and carries ids; losing one costs the
time until the relay's next sweep.
"""
