"""SpAtten's algorithms on any attention model (arXiv 2012.09852, section III).

quantization     codes and their MSB and LSB planes
numpy_reference  all of it for one sentence in float64, slow and obvious
cascade_state    cumulative scores and kept sets of a batch of sentences
torch_attention  attention of one layer, and a hook that prunes a whole model
fine_tuning      a few steps of training with the pruning in the forward pass
"""
