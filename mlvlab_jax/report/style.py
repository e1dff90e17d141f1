"""The report's own style, after the one all pages share."""

STYLE = """
body { max-width: 80rem }
.blue { --own: var(--blue) } .orange { --own: var(--orange) } .red { --own: var(--error) }
.grey-1 { --own: #728093 } .grey-2 { --own: #96a2b1 } .grey-3 { --own: #b5bec9 } .grey-4 { --own: #d2d8df }
@media (prefers-color-scheme: dark) { .grey-1 { --own: #8794a5 } .grey-2 { --own: #6b7788 } .grey-3 { --own: #525d6b }
  .grey-4 { --own: #3c4551 } }
b.blue, b.orange, figcaption b.orange { color: var(--own) } svg rect, svg circle { fill: var(--own) }
svg text.blue, svg text.orange { fill: var(--own) }

header { border-bottom: 1px solid var(--line); padding-bottom: 1rem } .verdict { font-size: 1.1rem; margin-top: .5rem }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; font-size: .85rem; margin-top: .9rem } a { color: var(--blue) }
main { display: flex; flex-wrap: wrap; gap: 0 2.5rem } section { flex: 1 1 100%; min-width: 0; scroll-margin-top: 1rem }
#confusion, #classes { flex: 0 1 auto; max-width: 100% } .wide { overflow-x: auto }
code, pre { font: .85rem/1.5 ui-monospace, monospace } dd code { font-size: .8rem }
pre { background: var(--soft); border-radius: 8px; padding: .9rem 1.1rem; overflow-x: auto; margin: .5rem 0 }
#reproduce pre { white-space: pre-wrap; overflow-wrap: anywhere }
summary { cursor: pointer; color: var(--blue) } details { margin-top: .6rem }
figcaption { overflow-wrap: anywhere; line-height: 1.35 } figcaption b, .mistakes figcaption { color: var(--ink) }

thead th { color: var(--quiet); font-size: .85rem; font-weight: 600; vertical-align: bottom; max-width: 7.5rem }
tbody th { font-weight: 400; min-width: 5rem; position: sticky; left: 0; background: var(--paper) }
caption { text-align: left }
caption { color: var(--quiet); font-size: .85rem } .n { text-align: right; white-space: nowrap }
.interval { width: 120px; margin-top: .25rem } svg.interval line.blue { stroke: var(--own); stroke-width: 2 }
.confusion { width: min-content; max-width: 100%; min-width: min(22rem, 100%) } td, th { padding-right: 1.1rem }
.slices { display: flex; flex-wrap: wrap; gap: 1rem 3rem }

.facts, .versions { display: grid; grid-template-columns: repeat(auto-fill, minmax(15.5rem, 1fr)); margin: 0 }
.facts { gap: .9rem 2rem } .versions { grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .6rem 1.5rem }
dt { color: var(--quiet); font-size: .85rem } dd { margin: 0 }
.time { margin-top: 1.4rem } .time svg { height: 18px; margin: .3rem 0 .5rem; border-radius: 4px }
.time rect { stroke: var(--paper) } .time ul { display: flex; flex-wrap: wrap; gap: .2rem 1.3rem; list-style: none }
.time ul { margin: 0; padding: 0; font-size: .85rem }
.time i { display: inline-block; width: .75em; height: .75em; border-radius: 2px; margin-right: .45em }
.time i { background: var(--own) } .time p { max-width: 60rem }

.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1.2rem 1.5rem }
.curve { max-width: 30rem } svg line.mark { stroke: var(--quiet); stroke-dasharray: 3 3 }
.line { fill: none; stroke: var(--own); stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round }
svg rect.place { fill: var(--ink); opacity: 0 } svg rect.place:hover { opacity: .1 }
svg text.number { fill: var(--ink); font-size: 12px; text-anchor: middle }
svg rect.frame { fill: none; stroke: var(--line) }
.reliabilities { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 24rem)) }
.reliabilities { gap: 1.2rem 2.5rem; margin-top: .6rem } svg line.ideal { stroke: var(--quiet); stroke-dasharray: 4 4 }
.bar { fill-opacity: .4 } .gap { fill-opacity: .6 } .pale { opacity: .4 } svg rect.count { fill: var(--quiet) }

.mistakes { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: 1.1rem 1rem }
.mistakes img, .none { width: 96px; height: 96px; object-fit: contain; display: block }
.mistakes img, .none { background: var(--soft); border: 1px solid var(--line); border-radius: 4px }
.mistakes figcaption { margin-top: .3rem }
.mistakes .none { display: grid; place-items: center; color: var(--quiet); font-size: .8rem }
.id { color: var(--quiet); font-size: .78rem }
@media (max-width: 600px) { body { padding: 0 1rem } }
@media print { nav, summary { display: none } figure, table { break-inside: avoid } }
"""
