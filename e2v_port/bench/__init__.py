"""How fast models run on this machine, next to the libraries they come from: `e2v bench`.

    plan.py        how much is measured
    clips.py       the clips every contender runs
    contenders.py  e2v-port and the other libraries, called in the same way
    timing.py      turns, medians, peak arithmetic, time per module
    warm.py        measurements in this process: throughput, latency, loading, growth, stages
    cold.py        measurements in fresh processes: cold start, memory, long files
    process.py     the fresh processes
    measure.py     all of it, model by model
    report.py      the results as JSON and Markdown

docs/benchmarks.md has results.
"""
