"""The bundled measures by name, in the order in which they are listed and measured.

Everything from CATALOGUE on is written by `python docs/catalogue.py` from the classes themselves, so that `diagnostics list`
need not load them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Listed:
    """Where a measure's class stands below `diagnostics.measures`, as module:class, and what it says of itself."""

    home: str
    answers: str
    source: str
    family: str | None = None
    """None: the target's."""
    needs: str = "pooled"
    targets: tuple[str, ...] = ()
    """Kinds of target that it reads."""
    standard: bool = True


# fmt: off
CATALOGUE: dict[str, Listed] = {
    "linear_probe": Listed("probes.linear:LinearProbe", "What can be read out linearly, and how well?", "Alain and Bengio 2016 (1610.01644); ridge: Hoerl and Kennard 1970", targets=("label", "value", "state", "future", "token_value")),
    "knn_probe": Listed("probes.nearest:KnnProbe", "Do samples of one class lie together?", "Wu et al. 2018 (1805.01978), eq. 7; DINO (2104.14294)", targets=("label",)),
    "attentive_probe": Listed("probes.cross_attention:AttentiveProbe", "What can be read out when a probe may look for the tokens that hold it?", "Bardes et al. 2024 (2404.08471), without perceptron; Psomas et al. 2025 (2506.10178)", needs="tokens", targets=("label", "value", "state", "future"), standard=False),
    "segmentation_probe": Listed("probes.segmentation:SegmentationProbe", "Does each token know what lies at its place?", "linear segmentation (Oquab et al. 2023, 2304.07193, section 7.4); mean IoU: Everingham et al. 2010", needs="tokens", targets=("token_label",)),
    "caption_probe": Listed("probes.caption:CaptionProbe", "Can a sample's caption be found from its activations by a linear map to a text encoder's space?", "retrieval: Karpathy and Fei-Fei 2015 (1412.2306); zero-shot classification: CLIP (2103.00020); linear map: Merullo et al. 2022 (2209.15162)", family="language", targets=("caption",)),
    "forecast_probe": Listed("dynamics.forecast:ForecastProbe", "How far ahead is the future known, beyond what a naive forecast says?", "Hyndman and Athanasopoulos 2021, Forecasting: principles and practice, section 5.8", targets=("future",)),
    "event_probe": Listed("dynamics.events:EventProbe", "Does a token know that something happens at its time?", "Hastie, Tibshirani and Friedman 2009, section 4.3", needs="tokens", targets=("event",)),
    "straightness": Listed("dynamics.latent:Straightness", "Does the representation move straight ahead in time?", "after Hénaff et al. 2019 (Nature Neuroscience 22, 984), as the mean cosine of successive steps", family="dynamics", needs="tokens", standard=False),
    "linear_predictability": Listed("dynamics.latent:LinearPredictability", "Is the next step of the representation a linear map of this one?", "one-step linear prediction, as in dynamic mode decomposition (Schmid 2010); ridge: Hoerl and Kennard 1970", family="dynamics", needs="tokens", standard=False),
    "cka": Listed("similarity.kernel_alignment:Cka", "Which taps hold alike geometries of the samples?", "Kornblith et al. 2019 (1905.00414); unbiased HSIC: Song et al. 2012, eq. 5; Székely and Rizzo 2014", family="similarity", needs="tokens"),
    "cka_rbf": Listed("similarity.kernel_alignment:RbfCka", "Which taps hold alike neighbourhoods of the samples, far distances counting little?", "Kornblith et al. 2019 (1905.00414), section 3; unbiased HSIC: Song et al. 2012, eq. 5", family="similarity", needs="tokens", standard=False),
    "minibatch_cka": Listed("similarity.minibatch:MinibatchAlignment", "Which taps hold alike geometries of the samples, estimated from small batches?", "Nguyen et al. 2021 (2010.15327), eq. 2; unbiased HSIC: Song et al. 2012, eq. 5", family="similarity", needs="tokens", standard=False),
    "mutual_knn": Listed("similarity.nearest:MutualKnn", "Which taps agree on which samples are nearest?", "Huh et al. 2024 (2405.07987), appendix A", family="similarity", standard=False),
    "cknna": Listed("similarity.nearest:Cknna", "Which taps hold alike geometries of near samples?", "Huh et al. 2024 (2405.07987), appendix A, as its authors compute it", family="similarity", standard=False),
    "torch_cka": Listed("similarity.torch_cka:TorchCka", "What does the torch-cka package find?", "the package torch-cka (0.21), after Nguyen et al. 2021 (2010.15327)", family="similarity", needs="tokens", standard=False),
    "cca": Listed("similarity.canonical:Cca", "Which taps hold the same directions up to any linear map, large and small alike?", "Raghu et al. 2017 (1706.05806); Hotelling 1936", family="similarity", standard=False),
    "svcca": Listed("similarity.canonical:Svcca", "Which taps hold the same principal directions up to a linear map of these?", "Raghu et al. 2017 (1706.05806)", family="similarity", standard=False),
    "pwcca": Listed("similarity.canonical:Pwcca", "How much of what a tap's features carry does another tap hold up to a linear map?", "Morcos et al. 2018 (1806.05759), section 2.2", family="similarity", standard=False),
    "procrustes": Listed("similarity.shape:Procrustes", "How far apart are two taps once one is turned onto the other?", "Ding et al. 2021 (2108.01661); Williams et al. 2021 (2110.14739)", family="similarity", standard=False),
    "angular_distance": Listed("similarity.shape:AngularDistance", "By what angle do the shapes of two taps differ?", "Williams et al. 2021 (2110.14739)", family="similarity", standard=False),
    "rsa": Listed("similarity.dissimilarity:Rsa", "Do two taps find the same pairs of samples unlike?", "Kriegeskorte et al. 2008", family="similarity", standard=False),
    "gulp": Listed("similarity.transfer:Gulp", "How differently do linear predictors from two taps predict, whatever the target?", "Boix-Adserà et al. 2022 (2210.06545)", family="similarity", standard=False),
    "rankme": Listed("geometry.spectrum:RankMe", "How many dimensions does the representation fill, by its singular values?", "Garrido et al. 2023 (2210.02885), eq. 1 and 2", family="geometry"),
    "participation_ratio": Listed("geometry.spectrum:ParticipationRatio", "Over how many principal components is the variance spread?", "Gao et al. 2017 (bioRxiv 214262)", family="geometry"),
    "effective_rank": Listed("geometry.spectrum:EffectiveRank", "How many dimensions does the representation fill, by its singular values (without RankMe's constant)?", "Roy and Vetterli 2007 (EUSIPCO)", family="geometry", standard=False),
    "alpha_req": Listed("geometry.spectrum:AlphaReq", "How fast do the variances along the principal components fall?", "Agrawal et al. 2022 (NeurIPS, alpha-ReQ); weights and range as reptrix", family="geometry", standard=False),
    "nesum": Listed("geometry.spectrum:NeSum", "How many times the variance of the first principal component is there in all?", "He and Ozay 2022 (ICML); 2305.16562", family="geometry", standard=False),
    "stable_rank": Listed("geometry.spectrum:StableRank", "How many times the energy of the largest singular direction is there in all?", "Rudelson and Vershynin 2007 (J. ACM 54)", family="geometry", standard=False),
    "two_nn": Listed("geometry.dimension:TwoNn", "On how many dimensions do the samples lie, by their two nearest neighbours?", "Facco et al. 2017 (Scientific Reports 7, 12140)", family="geometry"),
    "mle_dimension": Listed("geometry.dimension:MleDimension", "On how many dimensions do the samples lie, by their 20 nearest neighbours?", "Levina and Bickel 2004 (NeurIPS); MacKay and Ghahramani 2005 for the average", family="geometry", standard=False),
    "uniformity": Listed("geometry.spread:Uniformity", "How evenly do the samples cover the sphere of directions?", "Wang and Isola 2020 (2005.10242)", family="geometry", standard=False),
    "mean_cosine": Listed("geometry.spread:MeanCosine", "Do all samples point the same way (anisotropy)?", "Ethayarajh 2019 (1909.00512)", family="geometry"),
    "massive_activations": Listed("geometry.massive:MassiveActivations", "Is there a feature that is large whatever the input is?", "Sun et al. 2024 (2402.17762)", family="geometry", needs="tokens"),
    "matrix_entropy": Listed("geometry.tokens:MatrixEntropy", "Over how many directions do the tokens of a sample spread?", "Skean et al. 2025 (2502.02013)", family="geometry", needs="tokens", standard=False),
    "curvature": Listed("geometry.tokens:Curvature", "How sharply does the path through the tokens of a sample bend?", "Hosseini and Fedorenko 2023 (2311.04930)", family="geometry", needs="tokens", standard=False),
    "lidar": Listed("geometry.paired:Lidar", "In how many directions do groups differ by more than their samples do?", "Thilak et al. 2023 (2312.04000)", family="geometry", standard=False),
    "alignment": Listed("geometry.paired:Alignment", "How near are two samples of a group to each other?", "Wang and Isola 2020 (2005.10242)", family="geometry", standard=False),
    "infonce": Listed("geometry.paired:InfoNce", "Does a sample find its partner among the other groups' samples?", "Chen et al. 2020 (2002.05709), eq. 1", family="geometry", standard=False),
    "dime": Listed("geometry.paired:Dime", "How much do two samples of a group share?", "Skean et al. 2023 (2301.08164)", family="geometry", standard=False),
    "self_similarity": Listed("locality.cosines:SelfSimilarity", "Are near tokens more alike than far ones?", "iREPA (2512.10794): LDS, CDS, RMSC", family="spatial", needs="tokens"),
    "attention_distance": Listed("locality.heads:AttentionDistance", "How far across the grid do the heads of each block look?", "Dosovitskiy et al. 2021 (2010.11929), figure 7; Raghu et al. 2021 (2108.08810)", family="spatial", needs="attention"),
    "attention_entropy": Listed("locality.heads:AttentionEntropy", "Do the heads of each block look at few places or at many?", "Shannon entropy of attention rows; per head as in Zhai et al. 2023 (2303.06296)", family="spatial", needs="attention", standard=False),
    "global_token_mass": Listed("locality.heads:GlobalTokenMass", "How much attention leaves the grid for class and register tokens, or gathers on one token?", "Darcet et al. 2024 (2309.16588); Sun et al. 2024 (2402.17762)", family="spatial", needs="attention", standard=False),
    "receptive_field": Listed("locality.receptive:ReceptiveFieldOfTaps", "From how much of the input does the central token of each tap draw?", "Luo et al. 2016 (1701.04128)", family="spatial", needs="gradients", standard=False),
    "morans_i": Listed("locality.autocorrelation:MoransI", "Do neighbouring tokens deviate from their sample's mean alike?", "Moran 1950 (Biometrika 37); Cliff and Ord 1981", family="spatial", needs="tokens", standard=False),
    "neighbour_consistency": Listed("locality.consistency:NeighbourConsistency", "Do the tokens most like a token lie beside it?", "share of cosine nearest neighbours within a radius on the grid; chance by counting", family="spatial", needs="tokens", standard=False),
    "outlier_tokens": Listed("locality.outliers:OutlierTokenShare", "Are there tokens of extreme norm, and where?", "Darcet et al. 2024 (2309.16588), with a threshold from the tap's own norms", family="spatial", needs="tokens"),
    "position_probe": Listed("locality.position:Position", "Do single tokens tell where they lie?", "ridge: Hoerl and Kennard 1970; shuffled control after Hewitt and Liang 2019 (1909.03368)", family="spatial", needs="tokens"),
    "label_propagation": Listed("locality.propagation:LabelPropagation", "Do tokens follow an object through a video?", "Jabri et al. 2020 (2006.14613); protocol of DINO (2104.14294) and DAVIS 2017", family="spatial", needs="tokens", targets=("masks",)),
    "object_discovery": Listed("locality.discovery:ObjectDiscovery", "Do tokens mark out an object without being told?", "LOST, Simeoni et al. 2021 (2109.14279)", family="spatial", needs="tokens", targets=("masks",), standard=False),
}
