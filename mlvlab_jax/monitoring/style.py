"""The drift page's own style, after that of the report on a run."""

from mlvlab_jax.report.style import STYLE as REPORT_STYLE

STYLE = (
    REPORT_STYLE
    + """
h1 small { color: var(--quiet); font-size: .85rem; font-weight: 400 } .verdict b { font-size: 1.2rem }
.alarm { --own: var(--error) } b.alarm { color: var(--own) } b.count { color: var(--quiet) }
.late { direction: rtl } .late svg { direction: ltr }
svg rect.shown { fill: none; stroke: var(--ink); stroke-width: 1.5 } svg rect.count { fill: var(--quiet) }
.timeline .wide { width: fit-content } .timeline svg { max-width: none }
#windows { flex: 0 1 auto; min-width: min(22rem, 100%); max-width: 100% } #next { flex: 1 1 24rem }
.timeline { display: grid } .timeline figcaption { contain: inline-size }
ol { padding-left: 1.3rem; max-width: 46rem } li { margin: .35rem 0 }
.histograms { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(14.5rem, 100%), 1fr)) }
.histograms { gap: 1.2rem 1.5rem; margin-top: .8rem } .histogram figcaption { min-height: 2.4rem }
.classes { max-width: 34rem } #tests { flex: 0 1 auto; max-width: 100% } #classes { flex: 1 1 24rem; max-width: 100% }
#tests td { white-space: nowrap } #tests p { max-width: 46rem }
@media (max-width: 600px) { .histograms { grid-template-columns: 1fr 1fr; gap: 1rem } }
"""
)
