"""SpAtten's hardware modules, one noun a file: what each computes, bit for bit, and in how many cycles.

Section IV of arXiv 2012.09852 (Fig. 8), where it is silent the decisions of docs/modules.md. The top-k engine is
`dataflow.spatten.topk`.
"""
