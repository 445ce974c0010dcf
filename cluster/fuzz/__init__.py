"""Fuzzing of everything that takes bytes from outside: ``gridpact fuzz``.

| module | what it holds |
| --- | --- |
| `law` | what an input may lead to, and what anything else is called |
| `target`, `targets` | the interface of a target, and the table of all |
| `trees`, `mutation` | MessagePack as trees, with encodings that no honest writer makes; how inputs are changed |
| `forgery`, `texts`, `requests` | the same for signed transactions, for JSON and TOML, for HTTP |
| `world`, `rehearsal`, `stored` | where valid inputs come from: a ledger with members, four real replicas, the disk of one |
| `on_*`, `running` | the targets, and the running channel behind two of them |
| `scenes`, `notary`, `sizes` | where one replica may stand when messages come; what a faulty member signs anew; how large tables are |
| `toy`, `seat`, `group` | a quick chain, its members with real replicas, their network, and what must hold of them |
| `hearsay`, `choices`, `forged_*`, `traitor` | what a faulty member remembers, and all that it makes up |
| `engine`, `novelty`, `atheris_engine` | the two engines, and how the built-in one sees what is new |
| `trial`, `journal`, `crashes`, `memory` | feeding one target; what was fed, even if the process dies; crash files; growth |
| `shift`, `worker`, `crew`, `report` | one target in one process; the process; all processes; what came of it |
"""
